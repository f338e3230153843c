"""Network of a spec, with timm's interface of a backbone."""

# No `from __future__ import annotations`: torch.fx writes annotations into the code that it makes,
# which TorchScript compiles only where they are types.
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from numbers import Integral
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint

from prunet_det.arch.blocks import ACTIVATION_MODULES, Block, conv_bn_act
from prunet_det.arch.spec import ArchSpec
from prunet_det.utils.errors import InputError

PADDING_MODES = ("published", "same")


class ArchNet(nn.Module):
    """Network that an ArchSpec describes.

    Args:
        spec: The architecture.
        num_classes: Number of classes; 0 for no classifier.
        in_chans: Number of channels of the images.
        global_pool: timm's name of a pooling, `avg`, `max`, `avgmax` or `catavgmax`; empty for
            none.
        drop_rate: Rate of dropout before the classifier, 0..1.
        drop_path_rate: Rate of stochastic depth, 0..1; it grows with depth, to nearly this rate at
            the last block.
        padding: `published` pads every block as its spec says; `same` pads all blocks, so that a
            feature map of stride s is exactly ceil(size / s) wide.

    Raises:
        InputError: If an argument is impossible, or does not fit the spec.
    """

    def __init__(  # noqa: PLR0913 (timm's contract)
        self,
        spec: ArchSpec,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        *,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        padding: str = "published",
    ) -> None:
        super().__init__()
        if padding not in PADDING_MODES:
            raise InputError(f"padding must be one of {', '.join(PADDING_MODES)}, got {padding!r}.")
        for key, value, minimum in (("num_classes", num_classes, 0), ("in_chans", in_chans, 1)):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
                raise InputError(f"{key} must be an integer of at least {minimum}, got {value!r}.")
        self.spec = spec
        num_classes, in_chans = int(num_classes), int(in_chans)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        eps = spec.bn_eps

        widths = (in_chans, *spec.stem.widths)
        self.stem = nn.Sequential(
            *(
                conv_bn_act(a, b, 3, stride=2 if i == 0 else 1, act=spec.stem.act, bn_eps=eps)
                for i, (a, b) in enumerate(pairwise(widths))
            )
        )
        # The published builder's rule: block i of n drops with rate * (i + 2) / (n + 2), because
        # its list also counts the data, stem and tail entries.
        rates = (drop_path_rate * (i + 2) / (len(spec.blocks) + 2) for i in range(len(spec.blocks)))
        padded = padding == "same"
        self.stages: nn.Sequential = nn.Sequential(
            *(
                nn.Sequential(
                    *(Block(b.padded() if padded else b, eps, next(rates)) for b in stage.blocks)
                )
                for stage in spec.stages
            )
        )
        self.feature_info: list[dict[str, Any]] = [
            dict(num_chs=chs, reduction=stride, module=f"stages.{i}", stage=i)
            for i, chs, stride in spec.feature_stages()
        ]

        self.conv_head: nn.Module = conv_bn_act(
            spec.stages[-1].blocks[-1].out_chs, spec.tail.width, act="relu", bn_eps=eps
        )
        self.num_features = spec.tail.width
        self.head_hidden_size = spec.tail.hidden or spec.tail.width
        self.global_pool: SelectAdaptivePool2d = SelectAdaptivePool2d()
        self.pre_logits: nn.Module = nn.Identity()
        if spec.tail.hidden:
            self.pre_logits = nn.Sequential(
                nn.Conv2d(spec.tail.width, spec.tail.hidden, 1, bias=False),
                ACTIVATION_MODULES["relu"](inplace=True),
            )
        self.flatten: nn.Module = nn.Identity()
        self.classifier: nn.Module = nn.Identity()
        self._set_classifier(num_classes, global_pool)
        self.apply(init_weights)

    def _set_classifier(self, num_classes: int, global_pool: str) -> None:
        if self.spec.tail.hidden and "cat" in global_pool:
            raise InputError(f"global_pool {global_pool!r} does not fit a tail with two convs.")
        if not global_pool and num_classes:
            raise InputError("a classifier needs pooling: give a global_pool, or num_classes=0.")
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool)
        self.flatten = nn.Flatten(1) if global_pool else nn.Identity()
        chs = self.head_hidden_size * self.global_pool.feat_mult()
        self.classifier = nn.Linear(chs, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Returns the linear layer at the end; an Identity if there are no classes."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new one with random weights.

        Args:
            num_classes: Number of classes; 0 for no classifier.
            global_pool: timm's name of a pooling; None keeps the present one.

        Raises:
            InputError: If the pooling does not fit.
        """
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self._set_classifier(num_classes, pool)
        init_weights(self.classifier)
        like = next(self.stages.parameters())
        self.classifier.to(device=like.device, dtype=like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Sets whether training recomputes activations of the stages instead of keeping them."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns patterns that group parameters by stage if `coarse`, otherwise by block."""
        return dict(
            stem=r"^stem",
            blocks=[
                (r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)", None),
                (r"^conv_head|pre_logits", (99999,)),
            ],
        )

    def _take_indices(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self.feature_info)
        if indices is None or isinstance(indices, int):
            indices = range(-(count if indices is None else indices), 0)
        if not indices or not all(-count <= i < count for i in indices):
            raise InputError(
                f"feature indices {list(indices)} do not fit: {self.spec.name} has {count} of them."
            )
        return [i % count for i in indices]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Turns images, (N, in_chans, H, W), into the last map, (N, num_features, h, w)."""
        x = self.stem(x)
        for stage in self.stages:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_stage(stage, x)
            else:
                x = stage(x)
        return self.conv_head(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pools and classifies.

        Args:
            x: Map that `forward_features` gives.
            pre_logits: Stop before the dropout and the classifier.

        Returns:
            Logits, (N, num_classes), or features, (N, head_hidden_size).
        """
        x = self.pre_logits(self.global_pool(x))
        x = self.flatten(x)
        if pre_logits:
            return x
        x = nn.functional.dropout(x, self.drop_rate, self.training)
        return self.classifier(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turns images, (N, in_chans, H, W), into logits, (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Computes feature maps, of which there is one per stride.

        Args:
            x: Images, (N, in_chans, H, W).
            indices: Indices into `feature_info`, or a number of last maps; None for all maps.
            norm: Has no effect: no norm follows the features. Part of timm's interface.
            stop_early: Leave out the stages after the last map that is asked for.
            output_fmt: `NCHW`, the only format.
            intermediates_only: Return the maps alone.

        Returns:
            The list of maps, or a pair of the last features and that list.

        Raises:
            InputError: If an index or the format does not exist.
        """
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt must be NCHW, got {output_fmt!r}.")
        take_stages = [self.feature_info[i]["stage"] for i in self._take_indices(indices)]
        last = max(take_stages)
        stages = list(self.stages)[: last + 1 if stop_early else None]
        intermediates = []
        x = self.stem(x)
        for i, stage in enumerate(stages):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_stage(stage, x)
            else:
                x = stage(x)
            if i in take_stages:
                intermediates.append(x)
        if intermediates_only:
            return intermediates
        if len(stages) == len(self.spec.stages):
            x = self.conv_head(x)
        return x, intermediates

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Removes the layers that some feature maps do not need.

        Args:
            indices: Indices into `feature_info`, or a number of last maps.
            prune_norm: Has no effect: no norm follows the features. Part of timm's interface.
            prune_head: Remove the layers after the stages too.

        Returns:
            The indices, counted from 0.

        Raises:
            InputError: If an index does not exist.
        """
        take = self._take_indices(indices)
        self.stages = nn.Sequential(*list(self.stages)[: self.feature_info[max(take)]["stage"] + 1])
        if prune_head:
            self.conv_head = nn.Identity()
            self.pre_logits = nn.Identity()
            self._set_classifier(0, "")
        return take


def init_weights(module: nn.Module) -> None:
    """Draws the weights of a convolution or linear layer, as timm initialises EfficientNets."""
    if any(p.is_meta for p in module.parameters(recurse=False)):
        return  # without values, drawing them would only take time
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2.0 * module.groups / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.uniform_(module.weight, -(module.out_features**-0.5), module.out_features**-0.5)
        nn.init.zeros_(module.bias)


@torch.jit.ignore
def checkpoint_stage(stage: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Runs the blocks of a stage without keeping activations, which the backward pass recomputes.

    Args:
        stage: Blocks in order.
        x: Feature maps, (N, C, H, W).
    """
    for block in stage:
        if torch.compiler.is_compiling():  # a compiled checkpoint takes no contexts
            x = checkpoint(block, x, use_reentrant=False)
        else:
            x = checkpoint(block, x, use_reentrant=False, context_fn=_Contexts(block))
    return x


class _Contexts:
    """Contexts in which a block runs forward and, in the backward pass, again."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_statistics(self.block)


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Keeps the running statistics, which the first run has updated."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


class _OnlyNorms(nn.Module):
    """A network of which train() reaches the batch norms alone: no dropout, no stochastic depth."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def train(self, mode: bool = True) -> "_OnlyNorms":
        self.training = mode
        for module in self.net.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)


def reestimate_norms(net: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Sets the statistics of all batch norms to their mean over batches, frozen ones included.

    Args:
        net: Any network; left in eval mode.
        batches: Inputs of the network, such as (N, 3, H, W) images.
    """
    net.eval()
    update_bn(batches, _OnlyNorms(net).eval())
