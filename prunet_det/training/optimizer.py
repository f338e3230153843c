"""Optimizers of timm that torch lacks, for mmengine's configs: `TimmMuon` and `TimmLamb`.

And a constructor that leaves few groups of parameters, for any optimizer goes through them in turn.

Muon orthogonalises the update of every weight matrix (a convolution is flattened to one) and leaves
norms and biases to AdamW, whose learning rate is of the same size (`match_rms_adamw`). Detectors
that start from random weights learn from it in far fewer iterations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from timm.optim import Lamb, Muon
from timm.optim.muon import (
    _COEFFICIENTS,
    _is_suitable_for_muon,
    get_lr_scale,
    resolve_ns_coefficients,
    zeropower_via_newtonschulz,
)
from torch import Tensor, nn

from prunet_det.utils.errors import InputError

Tensors = list[Tensor] | tuple[Tensor, ...]
Shape = tuple[int, int]  # rows and columns, no more rows than columns

_PADDING = 0.02  # arithmetic that padding may add, of the whole; fewer stacks are fewer launches
# Options whose other values stacks and integer steps do not support.
_ONLY = dict(algo="muon", conv_mode="flatten", scale_eps=False, capturable=False, verbose=False)


class TimmMuon(Muon):
    """timm's Muon in a few hundred launches: stacks of matrices, and foreach for the rest.

    Results are timm's but for rounding, and timm's checkpoints fit. timm takes one matrix at a
    time, some 70 launches each.

    Args:
        params: See `torch.optim.Optimizer`. Groups of equal options are updated together.
        lr: Learning rate.
        **options: See `timm.optim.Muon`.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.02, **options: Any) -> None:
        super().__init__(params, lr, **options)
        self._stacks: dict[tuple[Any, ...], _Stacks] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._stacks = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, see `torch.optim.Optimizer.add_param_group`.

        Raises:
            InputError: If an option is one of timm's that a stack cannot do.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for key, only in _ONLY.items():
            if group[key] != only:
                raise InputError(f"TimmMuon knows {key}={only!r} only, got {group[key]!r}.")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Performs an optimization step, see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self._ready_groups():
            matrices = [p for p in group["params"] if self.state[p]["use_muon"]]
            others = [p for p in group["params"] if not self.state[p]["use_muon"]]
            if matrices:
                self._update_matrices(matrices, group)
            if others:
                self._update_others(others, group)
        return loss

    def _ready_groups(self) -> list[dict[str, Any]]:
        """Returns groups of the parameters that have gradients, with states."""
        empty: list[Tensor] = []
        merged = merged_groups(self.param_groups)
        for group in merged:
            group["params"] = [p for p in group["params"] if p.grad is not None]
            for param in group["params"]:
                if not self.state[param]:
                    empty += self._init_state(param, group)
        if empty:
            torch._foreach_zero_(empty)
        return merged

    def _init_state(self, param: Tensor, options: dict[str, Any]) -> list[Tensor]:
        """Returns the tensors of a new state, to be filled with zeros."""
        suitable = options.get("use_muon", _is_suitable_for_muon(param))
        use_muon = suitable and not options.get("use_fallback", False)
        names = ("momentum_buffer",) if use_muon else ("exp_avg", "exp_avg_sq")
        tensors = {name: torch.empty_like(param) for name in names}
        self.state[param].update(use_muon=use_muon, **tensors)
        if not use_muon:
            self.state[param]["step"] = 0
        return list(tensors.values())

    def _update_matrices(self, params: list[Tensor], options: dict[str, Any]) -> None:
        """As timm's `muon`."""
        grads = [p.grad for p in params if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        lr, momentum = options["lr"], options["momentum"]
        key = (options["adjust_lr_fn"], *(p.shape for p in params))
        if key not in self._stacks:
            self._stacks[key] = _Stacks(params, options["adjust_lr_fn"])
        torch._foreach_mul_(params, 1 - lr * options["weight_decay"])
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        updates = torch._foreach_lerp(grads, buffers, momentum) if options["nesterov"] else buffers
        torch._foreach_add_(params, self._stacks[key].orthogonalized(updates, options), alpha=-lr)

    def _update_others(self, params: list[Tensor], options: dict[str, Any]) -> None:
        """As timm's `nadamw`, or its `adamw` without Nesterov's momentum.

        Steps are integers: timm's are tensors, each read by an operator of its own.
        """
        grads = [p.grad for p in params if p.grad is not None]
        states = [self.state[p] for p in params]
        for state in states:
            state["step"] = int(state["step"]) + 1
        means, squares = ([s[key] for s in states] for key in ("exp_avg", "exp_avg_sq"))
        beta1, beta2 = options["betas"]
        lr = options["lr"] * options["fallback_lr_scale"]
        torch._foreach_mul_(params, 1 - lr * options["weight_decay"])
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        if options["nesterov"]:
            means = list(torch._foreach_lerp(means, grads, 1 - beta1))
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [(1 - beta2 ** s["step"]) ** 0.5 for s in states])
        torch._foreach_add_(roots, options["eps"])
        rates = [-lr / (1 - beta1 ** s["step"]) for s in states]
        torch._foreach_addcdiv_(params, means, roots, rates)


class _Stacks:
    """Matrices of several shapes in a few stacks.

    A stack holds wide matrices: tall ones are transposed, smaller ones padded with zeros. Neither
    changes the orthogonalised matrix, which is an odd polynomial of the matrix divided by its
    Frobenius norm: zeros add nothing to products and norms, and stay zeros.

    Args:
        params: Parameters that the matrices belong to, all of one type and device.
        adjust_lr_fn: Name of timm's rule by which a matrix is scaled, see `get_lr_scale`.
    """

    def __init__(self, params: Sequence[Tensor], adjust_lr_fn: str | None) -> None:
        like = params[0]
        sizes = [(p.shape[0], prod(p.shape[1:])) for p in params]
        places = plan_stacks(Counter((min(s), max(s)) for s in sizes))
        members = [places[min(s), max(s)] for s in sizes]
        self.stacks, self.scales = [], []
        self.views: list[Tensor] = [like] * len(params)
        for shape in sorted(set(members)):
            own = [k for k, member in enumerate(members) if member == shape]
            stack = torch.zeros(len(own), *shape, dtype=like.dtype, device=like.device)
            for place, k in enumerate(own):
                rows, columns = sizes[k]
                matrix = stack[place] if rows <= columns else stack[place].mT
                self.views[k] = matrix[:rows, :columns].view(params[k].shape)
            self.stacks.append(stack)
            rule = adjust_lr_fn
            scales = [get_lr_scale(torch.Size(sizes[k]), rule) if rule else 1.0 for k in own]
            self.scales.append(stack.new_tensor(scales)[:, None, None])
        self.dtype = product_dtype(like.device)

    def orthogonalized(self, updates: Tensors, options: dict[str, Any]) -> list[Tensor]:
        """Returns orthogonalised and scaled updates; the next call overwrites them.

        Args:
            updates: Update of each parameter.
            options: Settings of timm's Newton-Schulz iteration.
        """
        coefficients = resolve_ns_coefficients(options["ns_coefficients"], _COEFFICIENTS)
        torch._foreach_copy_(self.views, updates)
        for stack, scale in zip(self.stacks, self.scales, strict=True):
            result = zeropower_via_newtonschulz(
                stack,
                options["ns_steps"],
                coefficients,
                eps=options["eps"],
                safety_factor=options["safety_factor"],
                dtype=self.dtype,
            )
            torch.mul(result, scale, out=stack)
        return self.views


def product_dtype(device: torch.device) -> torch.dtype:
    """Returns the type that matrices are multiplied in: bfloat16, where the device has it.

    CPUs without AVX-512 emulate it, and a product takes 15 to 30 times as long as in float32.
    """
    emulated = not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.float32 if device.type == "cpu" and emulated else torch.bfloat16


def plan_stacks(counts: Counter[Shape]) -> dict[Shape, Shape]:
    """Says to which shape matrices of each shape are padded, so that few shapes remain.

    Two shapes at a time become one, the cheapest first, until the next would take the arithmetic
    that padding adds over its limit.

    Args:
        counts: Number of matrices of each shape.
    """

    def cost(shape: Shape, count: int) -> int:
        rows, columns = shape  # X @ X.T and B @ X, and A @ A
        return count * (4 * rows**2 * columns + 2 * rows**3)

    def joined(a: Shape, b: Shape) -> Shape:
        return max(a[0], b[0]), max(a[1], b[1])

    def added(a: Shape, b: Shape) -> int:
        both = cost(joined(a, b), groups[a] + groups[b])
        return both - cost(a, groups[a]) - cost(b, groups[b])

    places = {shape: shape for shape in counts}
    groups = Counter(counts)
    left = _PADDING * sum(cost(*item) for item in counts.items())
    while len(groups) > 1:
        a, b = min(combinations(groups, 2), key=lambda pair: (added(*pair), pair))
        left -= added(a, b)
        if left < 0:
            break
        padded, count = joined(a, b), groups.pop(a) + groups.pop(b)
        groups[padded] += count
        places = {s: padded if p in (a, b) else p for s, p in places.items()}
    return places


def merged_groups(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns groups of parameters, one for all that have the same options.

    Args:
        groups: Groups as `torch.optim.Optimizer` takes them; they stay as they are.
    """
    merged: list[tuple[dict[str, Any], list[Tensor]]] = []
    for group in groups:
        options = {key: value for key, value in group.items() if key != "params"}
        params = next((params for known, params in merged if known == options), None)
        if params is None:
            params = []
            merged.append((options, params))
        params += group["params"]
    return [{"params": params, **options} for options, params in merged]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergingConstructor(DefaultOptimWrapperConstructor):
    """mmengine's DefaultOptimWrapperConstructor, with a group for each set of options.

    mmengine's `paramwise_cfg` makes a group of every parameter, and torch's optimizers take groups
    one after another.
    """

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Adds a module's parameters; mmengine calls this for the model, and it for its children.

        Args:
            params: Groups so far; changed in place.
            module: Module to add.
            prefix: Name of the module, empty for the model.
            is_dcn_module: See mmengine.
        """
        super().add_params(params, module, prefix, is_dcn_module)
        if not prefix:
            params[:] = merged_groups(params)


OPTIMIZERS.register_module(module=TimmMuon)
OPTIMIZERS.register_module(module=Lamb, name="TimmLamb")
