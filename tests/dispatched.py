"""Counts what PyTorch dispatches: on a GPU, about the number of kernels that the host launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

# They make a tensor, but launch nothing.
_ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Dispatched(TorchDispatchMode):
    """Counts operators within a block, by name, without views and allocations.

    The count is the same on a CPU as on a GPU, and in every run. `total()` adds it up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Counts an operator and runs it."""
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _ALLOCATIONS:
            self.operators[name] += 1
        return func(*args, **(kwargs or {}))

    def total(self) -> int:
        """Returns the number of operators."""
        return self.operators.total()


def dispatched(run: Callable[[], object]) -> Counter[str]:
    """Returns the operators, by name, that a call dispatches."""
    with Dispatched() as mode:
        run()
    return mode.operators
