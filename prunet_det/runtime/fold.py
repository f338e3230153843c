"""Networks as they are deployed: flat graphs, batch norms folded into convolutions."""

from __future__ import annotations

import copy
import logging
import operator
import re
import warnings
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from prunet_det.utils.errors import InputError

logger = logging.getLogger(__name__)


class _Tracer(fx.Tracer):
    """Keeps every batch norm whole, timm's with an activation too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


def folded_module(module: nn.Module) -> fx.GraphModule | None:
    """Returns a network in eval mode as a flat graph of its modules, batch norms folded.

    It takes milliseconds where `inference_graph` takes seconds, and computes the same. torch.fx
    follows networks whose Python does not depend on what flows through them: this project's and
    most of timm's.

    Args:
        module: The network; not changed, and no tensor is shared with the graph.

    Returns:
        The graph; None if torch.fx cannot follow the network.
    """
    network = copy.deepcopy(module).requires_grad_(False).eval()
    try:
        graph = fx.GraphModule(network, _Tracer().trace(network))
    except Exception as e:  # whatever a network's own code raises under tracing
        logger.debug("torch.fx cannot follow %s: %s", type(module).__name__, e)
        return None
    for node in list(graph.graph.nodes):
        if node.op == "call_module":
            norm = graph.get_submodule(str(node.target))
            if isinstance(norm, _BatchNorm):
                _fold_module(graph, node, norm)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _fold_module(graph: fx.GraphModule, node: fx.Node, norm: _BatchNorm) -> None:
    """Folds a batch norm into the convolution before it, where there is one that it has alone."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
        return
    conv = graph.get_submodule(str(source.target))
    if type(conv) is not nn.Conv2d or norm.running_mean is None:
        return
    name = f"{node.name}_folded"  # a convolution that is shared gets weights of its own
    graph.add_submodule(name, fuse_conv_bn_eval(conv, norm))
    source.target = name
    if isinstance(norm, BatchNormAct2d):
        graph.add_submodule(f"{name}_act", nn.Sequential(norm.drop, norm.act))
        node.target = f"{name}_act"
    else:
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)


def deployed(module: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """Returns a network in eval mode with its batch norms folded, by the quickest way that can.

    Args:
        module: The network; not changed.
        example: An input, (N, C, H, W), on the module's device and of its type.

    Raises:
        InputError: If neither torch.fx nor torch.export can follow the network.
    """
    return folded_module(module) or inference_graph(module, example)


_CONVOLUTIONS = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)
# Checks of types and devices that the graph's own tensors would fail once it is cast.
_CHECKS = (torch.ops.aten._assert_tensor_metadata.default,)


def inference_graph(
    module: nn.Module, example: torch.Tensor, dynamic_batch: bool = False
) -> fx.GraphModule:
    """Returns a network in eval mode as a flat graph, batch norms folded into convolutions.

    Works on whatever torch.export can follow: this project's networks, timm's, and detectors. A
    convolution that is shared between several batch norms gets weights of its own for each.

    Args:
        module: The network; not changed, and no tensor is shared with the graph.
        example: An input, (N, C, H, W), on the module's device and of its type.
        dynamic_batch: Whether the graph takes any N; `example` then needs N >= 2.

    Raises:
        InputError: If torch.export cannot follow the network; the sentence says where.
    """
    was_training = module.training
    module.eval()
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    try:
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as e:  # whatever a network's own code raises under tracing
        raise export_error(module, e) from e
    finally:
        module.train(was_training)
    graph: Any = program.module(check_guards=False)
    with torch.no_grad():
        for node in list(graph.graph.nodes):
            if node.target is torch.ops.aten.batch_norm.default:
                _fold(graph, node)
            elif node.target in _CHECKS:
                graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    plain = fx.GraphModule(graph, graph.graph)  # without the parameters that are left over
    with warnings.catch_warnings():  # PyTorch's own, about how it copies its graphs
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(plain).requires_grad_(False).eval()


def export_error(module: nn.Module, cause: BaseException) -> InputError:
    """Returns what to tell a user whose network cannot be exported.

    Args:
        module: The network.
        cause: What the exporter raised; the first cause and the operator are told.
    """
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = " ".join(str(cause).split())
    operator_name = re.search(r"op='([\w.]+)'", reason)
    what = f"because of the operator {operator_name[1]}" if operator_name else ""
    return InputError(
        f"{type(module).__name__} cannot be exported {what}".rstrip() + f": {reason[:300]}"
    )


def _fold(graph: fx.GraphModule, norm: fx.Node) -> None:
    """Folds a batch norm into the convolution before it, where there is one that it has alone."""

    def tensor(node: Any) -> Any:
        return None if node is None else operator.attrgetter(node.target)(graph)

    def exact(node: Any) -> Any:
        return None if node is None else tensor(node).double()

    conv = norm.args[0]
    if not isinstance(conv, fx.Node) or conv.target not in _CONVOLUTIONS or len(conv.users) > 1:
        return
    source, weight_node, *rest = conv.args
    weight, bias = exact(weight_node), exact(rest[0]) if rest else None
    scale, shift, mean, variance = map(exact, norm.args[1:5])
    factor = torch.rsqrt(variance + norm.args[7])
    if scale is not None:
        factor = factor * scale
    offset = -mean * factor
    if bias is not None:
        offset = offset + bias * factor
    if shift is not None:
        offset = offset + shift
    folded = {"weight": weight * factor.reshape(-1, 1, 1, 1), "bias": offset}
    arguments = []
    for what, value in folded.items():
        name = f"{norm.name}_{what}"
        graph.register_parameter(name, nn.Parameter(value.to(tensor(weight_node).dtype)))
        with graph.graph.inserting_before(conv):
            arguments.append(graph.graph.get_attr(name))
    conv.args = (source, *arguments, *rest[1:])
    norm.replace_all_uses_with(conv)
    graph.graph.erase_node(norm)
