"""Any network as the kernels that an inference runtime would launch, from torch.export's graph.

What is computed from parameters alone is folded, and so are batch norms; what else is fused is the
runtime's, see `fusion`.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn

from prunet_det.latency.fusion import ENGINE, Fusion
from prunet_det.latency.kernels import (
    ConvShape,
    Kernel,
    convolution,
    elementwise,
    input_kernels,
    padded_convolution,
)
from prunet_det.utils.errors import InputError

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "convolution"}
_RELUS = {"relu", "relu_"}
_ADDS = {"add", "add_"}
_NORMS = {"batch_norm"}
_ELEMENTWISE = {
    *_RELUS,
    *_ADDS,
    *("hardtanh", "hardtanh_", "relu6", "silu", "silu_", "sigmoid", "sigmoid_", "tanh", "gelu"),
    *("hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_", "leaky_relu", "leaky_relu_", "elu"),
    *("mish", "mish_", "softplus", "prelu", "clamp", "clamp_", "clamp_min", "exp", "pow", "sqrt"),
    *("mul", "mul_", "sub", "sub_", "rsub", "div", "div_", "neg", "maximum", "minimum", "where"),
    *("layer_norm", "group_norm", "softmax", "batch_norm"),
}
_POOLS = {
    *("adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d", "mean", "amax"),
    *("max_pool2d_with_indices", "sum"),
}
_RESIZES = {"upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"}
_COPIES = {"cat", "pad", "constant_pad_nd", "roll", "clone", "contiguous", "stack"}
_MATMULS = {"matmul", "bmm", "mm", "addmm"}
_FREE = {
    *("flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "permute", "transpose"),
    *("expand", "expand_as", "slice", "select", "chunk", "split", "split_with_sizes", "getitem"),
    *("dropout", "dropout_", "feature_dropout", "alias", "detach", "detach_", "to", "_to_copy"),
    *("unbind", "t", "identity", "type_as", "movedim", "repeat", "arange", "zeros", "ones", "full"),
    *("_assert_tensor_metadata", "lift_fresh_copy", "scalar_tensor", "empty"),
}


@dataclass(frozen=True)
class Trace:
    """What a network launches.

    Attributes:
        kernels: Kernels in the order of the graph.
        unknown: Number of uses of each operator that has no price; they cost nothing here.
        params: Number of all parameters of the network.
    """

    kernels: list[Kernel]
    unknown: dict[str, int] = field(default_factory=dict)
    params: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(k.macs for k in self.kernels)


def trace(module: nn.Module, input_shape: tuple[int, int, int], fusion: Fusion = ENGINE) -> Trace:
    """Returns the kernels of a network's inference on one image.

    Neither its weights nor a device are needed or touched.

    Args:
        module: Network that takes (1, *input_shape).
        input_shape: Channels, height and width.
        fusion: What the runtime fuses; by default what TensorRT does.

    Raises:
        InputError: If torch.export cannot follow it; the sentence says where.
    """
    network = _on_meta(module)
    example = torch.empty(1, *input_shape, device="meta")
    try:
        with torch.no_grad():
            program = torch.export.export(network, (example,), strict=False)
    except Exception as e:  # whatever a network's own code raises under tracing
        reason = " ".join(str(e).split())[:300]
        raise InputError(
            f"{type(module).__name__} cannot be traced by torch.export: {reason}"
        ) from e
    return _Tracer(program, fusion).run()


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy in eval mode without memory."""
    memo = {id(p): p.detach().to("meta") for p in module.parameters()}
    memo.update({id(b): b.to("meta") for b in module.buffers()})
    network = copy.deepcopy(module, dict(_as_parameters(module, memo)))
    return network.eval().to("meta")


def _as_parameters(module: nn.Module, memo: dict[int, Any]) -> Iterable[tuple[int, Any]]:
    parameters = {id(p): p for p in module.parameters()}
    for key, value in memo.items():
        yield key, nn.Parameter(value, requires_grad=False) if key in parameters else value


class _Tracer:
    """One walk over an exported graph."""

    def __init__(self, program: torch.export.ExportedProgram, fusion: Fusion) -> None:
        self.fusion = fusion
        self.nodes = list(program.graph.nodes)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        signature = program.graph_signature
        self.sizes = {
            name: _numel(node)
            for node in self.nodes
            if node.op == "placeholder"
            for name in [node.name]
            if name in signature.inputs_to_parameters
        }
        self.inputs = set(signature.user_inputs)
        self.constant: set[fx.Node] = set()
        self.done: set[fx.Node] = set()
        self.kernels: list[Kernel] = []
        self.unknown: Counter[str] = Counter()

    def run(self) -> Trace:
        for node in self.nodes:
            if node.op == "placeholder":
                if node.name in self.inputs:
                    _, chs, *size = node.meta["val"].shape
                    self.kernels += input_kernels(chs, math.prod(size), self.fusion)
                else:
                    self.constant.add(node)
            elif node.op == "call_function" and node not in self.done:
                self._visit(node)
        return Trace(self.kernels, dict(self.unknown), sum(self.sizes.values()))

    def _visit(self, node: fx.Node) -> None:
        if node.all_input_nodes and all(n in self.constant for n in node.all_input_nodes):
            self.constant.add(node)
            return
        op = _name(node)
        for names, method in self._METHODS:
            if op in names:
                method(self, node)
                return
        if op in _FREE or not node.all_input_nodes:
            return
        self.unknown[op] += 1

    def _convolution(self, node: fx.Node) -> None:
        weight = node.args[1].meta["val"].shape  # type: ignore[union-attr]
        source, made = node.args[0].meta["val"].shape, _shape(node)  # type: ignore[union-attr]
        shape = ConvShape(
            in_chs=source[1],
            out_chs=weight[0],
            taps=math.prod(weight[2:]),
            groups=source[1] // weight[1],
            in_positions=math.prod(source[2:]),
            positions=math.prod(made[2:]),
        )
        last, params = self._norm(node)
        has_bias = last is not node or self._has_bias(node)
        inside = not has_bias or "bias" in self.fusion.into_conv
        extra = self._fuse(node, last) if inside else 0
        params += self._bias_params(node)
        self.kernels += padded_convolution(_where(node), shape, params, extra, self.fusion)
        if not inside:
            self._chain(last, is_bias=True)

    def _linear(self, node: fx.Node) -> None:
        out_chs, in_chs = node.args[1].meta["val"].shape  # type: ignore[union-attr]
        positions = math.prod(_shape(node)[:-1])
        shape = ConvShape(
            in_chs=in_chs, out_chs=out_chs, in_positions=positions, positions=positions
        )
        extra = self._fuse(node, node)  # a matrix product takes the bias along in every runtime
        self.kernels.append(convolution(_where(node), shape, self._bias_params(node), extra))

    def _has_bias(self, node: fx.Node) -> bool:
        return len(node.args) > 2 and isinstance(node.args[2], fx.Node)

    def _bias_params(self, node: fx.Node) -> int:
        return self.sizes.get(node.args[2].name, 0) if self._has_bias(node) else 0  # type: ignore

    def _norm(self, node: fx.Node) -> tuple[fx.Node, int]:
        """A convolution's own batch norm and its parameters, or the convolution and none."""
        user = next(iter(node.users), None)
        if user is None or len(node.users) > 1 or _name(user) not in _NORMS:
            return node, 0
        self.done.add(user)
        return user, sum(self.sizes.get(n.name, 0) for n in user.all_input_nodes)

    def _fuse(self, start: fx.Node, last: fx.Node) -> int:
        """Follows what the kernel of `start` takes along after `last`: elements of a residual."""
        extra = 0
        takes = self.fusion.into_conv
        while len(last.users) == 1:
            last, before = next(iter(last.users)), last
            op = _name(last)
            if op in _RELUS and "relu" in takes:
                self.done.add(last)
                break
            if op not in _ADDS or extra or "add" not in takes:
                break
            other = self._residual(last, before, start)
            if other is None:
                break
            extra = _numel(other)
            self.done.add(last)
        return extra

    def _residual(self, add: fx.Node, own: fx.Node, start: fx.Node) -> fx.Node | None:
        """The other summand, where it is a tensor of the same shape that is there already."""
        others = [n for n in add.all_input_nodes if n is not own]
        if len(others) != 1 or others[0] in self.constant:
            return None
        (other,) = others
        ready = self.order[other] < self.order[start] or other.op == "placeholder"
        return other if ready and _shape(other) == _shape(own) else None

    def _elementwise(self, node: fx.Node) -> None:
        self._chain(node)

    def _chain(self, first: fx.Node, is_bias: bool = False) -> None:
        """One kernel of an element-wise operation and of what the runtime chains to it.

        Args:
            first: The operation, or the convolution or batch norm whose bias is added.
            is_bias: Whether it is the latter.
        """
        chain = [first]
        while self.fusion.chains and len(chain[-1].users) == 1:
            user = next(iter(chain[-1].users))
            if _name(user) not in _ELEMENTWISE or not self._is_ready(user, chain):
                break
            chain.append(user)
        self.done.update(chain)
        made, links = set(chain), chain
        if is_bias:
            made, links = set(chain[1:]), chain[1:]
        needed = [n for link in links for n in link.all_input_nodes if n not in made]
        sources = dict.fromkeys([*([first] if is_bias else []), *needed])
        params = sum(self.sizes.get(n.name, 0) for n in sources)
        last = chain[-1]
        kernel = elementwise(
            _where(last),
            sum(_numel(n) for n in sources if n not in self.constant),
            _numel(last),
            math.prod(_shape(last)[2:]),
        )
        self.kernels.append(replace(kernel, weights=params, params=params))

    def _is_ready(self, user: fx.Node, chain: list[fx.Node]) -> bool:
        """Whether all that `user` needs beside the chain was computed before the chain."""
        return all(
            n in chain or n in self.constant or self.order[n] < self.order[chain[0]]
            for n in user.all_input_nodes
        )

    def _simple(self, kind: str) -> Callable[[fx.Node], None]:
        def add(node: fx.Node) -> None:
            shape = _shape(node)
            chs = shape[1] if len(shape) > 1 else 1
            reads = sum(_numel(n) for n in node.all_input_nodes if n not in self.constant)
            kernel = Kernel(
                kind=kind,
                name=_where(node),
                in_chs=chs,
                out_chs=chs,
                reads=reads,
                writes=_numel(node),
            )
            self.kernels.append(kernel)

        return add

    def _pool(self, node: fx.Node) -> None:
        self._simple("pool")(node)

    def _resize(self, node: fx.Node) -> None:
        self._simple("resize")(node)

    def _copy(self, node: fx.Node) -> None:
        self._simple("copy")(node)

    def _matmul(self, node: fx.Node) -> None:
        a, b = (n for n in node.all_input_nodes[-2:])
        macs = _numel(node) * _shape(a)[-1]
        self.kernels.append(
            Kernel(
                kind="matmul",
                name=_where(node),
                in_chs=_shape(a)[-1],
                out_chs=_shape(b)[-1],
                positions=math.prod(_shape(node)[:-1]),
                reads=_numel(a) + _numel(b),
                writes=_numel(node),
                macs=macs,
            )
        )

    _METHODS: tuple[tuple[set[str], Callable[[Any, fx.Node], None]], ...] = (
        (_CONVOLUTIONS, _convolution),
        ({"linear"}, _linear),
        (_ELEMENTWISE, _elementwise),
        (_POOLS, _pool),
        (_RESIZES, _resize),
        (_COPIES, _copy),
        (_MATMULS, _matmul),
    )


def _name(node: fx.Node) -> str:
    """`aten.conv2d.default` is conv2d."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target.overloadpacket.__name__
    return getattr(target, "__name__", str(target))


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["val"].shape


def _numel(node: fx.Node) -> int:
    value = node.meta.get("val")
    return int(value.numel()) if isinstance(value, torch.Tensor) else 0


def _where(node: fx.Node) -> str:
    """The module that a node was called in."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack and stack[-1][0] else node.name
