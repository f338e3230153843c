"""MMDetection backbones: PruNet (from a spec) and TimmBackbone (any timm network)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from timm.models import group_parameters
from torch.nn.modules.batchnorm import _BatchNorm

from prunet_det.arch.spec import ArchSpec
from prunet_det.training.norms import check_activations, convert_norms
from prunet_det.utils.errors import InputError
from prunet_det.zoo import create, load_backbone_weights, resolve_spec
from prunet_det.zoo.features import choose_indices, timm_features
from prunet_det.zoo.weights import refuse_pretrained

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from timm.models._features import FeatureGetterNet


class FeatureBackbone(BaseModule):
    """Base class: a features-only network of timm as a backbone of MMDetection.

    Args:
        net: Network that returns feature maps.
        frozen_stages: Stages to freeze: -1 freezes nothing, 0 the stem, k the stem and the first k
            stages. Frozen parameters have requires_grad False from construction, and frozen norms
            stay in eval mode.
        norm_eval: Keep every batch norm (SyncBN too) in eval mode during training.
        with_cp: Use gradient checkpointing. In networks of timm's own, the running statistics of
            batch norms then count every batch twice; in an ArchNet they do not.
        norm_cfg: Norms to replace the network's batch norms by, see `convert_norms`.
        checkpoint: Weights to start from, see `load_backbone_weights`.
        init_cfg: Config of mmengine's weight initialisation, except for its type `Pretrained`.

    Attributes:
        out_channels: Channels of the feature maps, finest first.
        out_strides: Strides of the feature maps, finest first.
        strides: Strides of all maps that the network could give, finest first.

    Raises:
        InputError: If an option does not fit the network.
        CheckpointError: If the checkpoint cannot be read or does not fit.
    """

    def __init__(  # noqa: PLR0913 (the keys of a config)
        self,
        net: FeatureGetterNet,
        *,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        norm_cfg: Mapping[str, Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        refuse_pretrained(init_cfg)
        super().__init__(init_cfg)
        if norm_cfg is not None:
            net = cast("FeatureGetterNet", convert_norms(net, norm_cfg))
        self.net = net
        self.out_channels: tuple[int, ...] = tuple(net.feature_info.channels())
        self.out_strides: tuple[int, ...] = tuple(net.feature_info.reduction())
        self.strides: tuple[int, ...] = tuple(f["reduction"] for f in net.feature_info.info)
        self.norm_eval = norm_eval
        if checkpoint is not None:
            logger.info("backbone: %s", load_backbone_weights(net, checkpoint))
        if with_cp:
            try:
                self._model.set_grad_checkpointing(True)
            except AssertionError as e:
                raise InputError(f"with_cp does not fit {type(net.model).__name__}: {e}.") from e
        self._frozen_norms = self._freeze(frozen_stages)

    @property
    def _model(self) -> Any:
        """The network without its feature extractor; torch's types do not know its methods."""
        return self.net.model

    def _freeze(self, frozen_stages: int) -> set[str]:
        """Freezes parameters; returns the names of the batch norms among their modules."""
        groups = group_parameters(self._model, self._model.group_matcher(coarse=True))
        if not -1 <= frozen_stages < len(groups):
            raise InputError(
                f"frozen_stages must lie in -1..{len(groups) - 1} for this network, "
                f"got {frozen_stages}."
            )
        parameters = dict(self.net.model.named_parameters())
        frozen = {name for i in range(frozen_stages + 1) for name in groups[i]}
        for name in frozen & parameters.keys():
            parameters[name].requires_grad_(False)
        owners = {name.rpartition(".")[0] for name in frozen}
        return {
            name
            for name, module in self.net.model.named_modules()
            if isinstance(module, _BatchNorm) and name in owners
        }

    def train(self, mode: bool = True) -> FeatureBackbone:
        """Sets the training mode, except that frozen norms, or all with norm_eval, stay in eval.

        Raises:
            InputError: If a conversion to SyncBN has dropped activations.
        """
        check_activations(self.net)
        super().train(mode)
        if mode:
            for name, module in self.net.model.named_modules():
                if isinstance(module, _BatchNorm) and (
                    self.norm_eval or name in self._frozen_norms
                ):
                    module.eval()
        return self

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Computes the feature maps.

        Args:
            x: Images, (N, in_chans, H, W).

        Returns:
            One map for each level, finest first, (N, out_channels[i], H / out_strides[i], ...).
        """
        return tuple(self.net(x))


@MODELS.register_module()
class PruNet(FeatureBackbone):
    """A network given by its spec, as a backbone.

    Args:
        arch: Name such as `prunet_p0`, path of a spec file (*.json), a spec as a dict, or a spec.
        out_strides: Strides of the maps to return; None for all from 8 upwards.
        out_indices: Indices of the features to return, in the place of out_strides.
        padding: `same`, which gives sizes of exactly ceil(H / stride), or `published`.
        drop_path_rate: Rate of stochastic depth, 0..1.
        in_chans: Channels of the images.
        **kwargs: frozen_stages, norm_eval, with_cp, norm_cfg, checkpoint and init_cfg, see
            FeatureBackbone.
    """

    def __init__(
        self,
        arch: str | os.PathLike[str] | Mapping[str, Any] | ArchSpec,
        *,
        out_strides: Sequence[int] | None = None,
        out_indices: Sequence[int] | None = None,
        padding: str = "same",
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
        **kwargs: Any,
    ) -> None:
        spec = resolve_spec(arch)
        strides = [stride for _, _, stride in spec.feature_stages()]
        net = create(
            spec,
            features_only=True,
            out_indices=choose_indices(strides, out_strides, out_indices, spec.name),
            padding=padding,
            drop_path_rate=drop_path_rate,
            in_chans=in_chans,
        )
        super().__init__(cast("FeatureGetterNet", net), **kwargs)


@MODELS.register_module()
class TimmBackbone(FeatureBackbone):
    """Any timm network that gives feature maps, as a backbone; used for the baselines.

    Args:
        name: Name of the network in timm.
        out_strides: Strides of the maps to return; None for all from 8 upwards.
        out_indices: Indices of the features to return, in the place of out_strides.
        drop_path_rate: Rate of stochastic depth, 0..1, for networks that have it.
        timm_args: Further keyword arguments of `timm.create_model`.
        **kwargs: frozen_stages, norm_eval, with_cp, norm_cfg, checkpoint and init_cfg, see
            FeatureBackbone.
    """

    def __init__(
        self,
        name: str,
        *,
        out_strides: Sequence[int] | None = None,
        out_indices: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        timm_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        args = dict(timm_args or {})
        if drop_path_rate:
            args["drop_path_rate"] = drop_path_rate
        net = timm_features(name, out_strides, out_indices, check_maps=True, **args)
        super().__init__(net, **kwargs)
