"""Runner for tests that replays recorded operations, as a CUDA graph does, but on a CPU.

It records every operation with the very tensors that it read and wrote, and runs those again without the Python around
them. Whatever a search reads from the host while it is recorded stays as it was then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from service.engines.cuda_graphs import EagerRunner, StaticFunction

FROM_THE_HOST = {"aten::_local_scalar_dense", "aten::lift_fresh", "aten::nonzero", "aten::masked_select"}
"""Operations that a graph cannot capture: they read values back, bring new ones, or make shapes of values."""


class Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dispatch mode that keeps all operations in order, with their tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[tuple[Any, Sequence[Any], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        out = func(*args, **given)
        self.steps.append((func, args, given, out))
        return out

    @property
    def names(self) -> set[str]:
        return {func._schema.name for func, *_ in self.steps}


class TapeRunner(EagerRunner):
    """Runner that counts what it recorded and what it replayed."""

    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def capture(self, function: StaticFunction) -> StaticFunction:
        with Noted() as noted:
            outputs = function()
        assert not noted.names & FROM_THE_HOST
        self.recordings += 1

        def replay() -> Sequence[Tensor]:
            self.replays += 1
            for step in noted.steps:
                again(*step)
            return outputs

        return replay


def again(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Run one operation into the tensors that it wrote the first time."""
    mine = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    theirs = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
    held = {each.untyped_storage().data_ptr() for each in mine}
    if all(each.untyped_storage().data_ptr() in held for each in theirs) and not func._schema.is_mutable:  # type: ignore[attr-defined]
        return  # a view of what is there already
    for old, new in zip(theirs, tree_leaves(func(*args, **kwargs)), strict=True):
        if old is not new:
            old.copy_(new)
