"""The one seam between a GPU and a CPU: how the same search is run again and again, and what orders its copies.

On a GPU the launches of a search's thousand small kernels take longer than the kernels. So it is captured once as a
CUDA graph and replayed with one launch. A CPU calls it again. Everything around is common, and tested on a CPU.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

Work = Callable[[], Sequence[Tensor]]
"""Reads static tensors and writes static tensors, which it returns; it never waits for the device."""

WARM_UPS = 2
"""Plain calls before a capture: libraries choose and load their kernels, which a capture must not see."""

_CAPTURING = threading.Lock()
"""One capture at a time in a process, whichever engine it is for."""


class Runner(ABC):
    """Runs work on a device in the order in which it was given."""

    @abstractmethod
    def in_order(self) -> AbstractContextManager[object]:
        """What is started inside, by any thread, begins on the device after all that was started inside before."""

    @abstractmethod
    def recorded(self, work: Work) -> Work:
        """Something that does the work once more, with what the static tensors hold then. Takes time.

        Call both inside :meth:`in_order`. What it returns is overwritten by the next recorded work of this runner.
        """

    @abstractmethod
    def mark(self) -> Callable[[], None]:
        """A function that waits until everything is done that was started so far; call it inside :meth:`in_order`."""

    @abstractmethod
    def staging(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A tensor on the host from and to which the device copies without waiting for the host."""


class EagerRunner(Runner):
    """Calls the work as it is: on a CPU."""

    def in_order(self) -> AbstractContextManager[object]:
        """See the base class: nothing is ever left to be done."""
        return nullcontext()

    def recorded(self, work: Work) -> Work:
        """See the base class."""
        return work

    def mark(self) -> Callable[[], None]:
        """See the base class."""
        return lambda: None

    def staging(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """See the base class."""
        return torch.zeros(shape, dtype=dtype)


class CudaGraphRunner(Runner):
    """Captures the work as CUDA graphs, which share their memory, and replays them on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def in_order(self) -> AbstractContextManager[object]:
        """See the base class."""
        return torch.cuda.stream(self._stream)

    def recorded(self, work: Work) -> Work:
        """See the base class. Other threads may use the device meanwhile, and other runners."""
        for _ in range(WARM_UPS):
            work()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with _CAPTURING, capture:
            outputs = work()

        def replay() -> Sequence[Tensor]:
            graph.replay()
            return outputs

        return replay

    def mark(self) -> Callable[[], None]:
        """See the base class. Who waits leaves the processor to others."""
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(self._stream)
        return done.synchronize

    def staging(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """See the base class."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)


def runner(device: torch.device) -> Runner:
    """What runs work on a device."""
    return CudaGraphRunner(device) if device.type == "cuda" else EagerRunner()
