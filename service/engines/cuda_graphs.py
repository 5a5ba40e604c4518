"""CUDA graphs: one interface that replays a captured search on a GPU and simply calls it on a CPU.

On a GPU, launching a search's thousand small kernels takes longer than running them. So the search is captured once as
a CUDA graph and replayed with one launch. This file is the only difference between the two kinds of device; everything
around it is common, and tested on a CPU.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

StaticFunction = Callable[[], Sequence[Tensor]]
"""Function that reads static tensors and writes static tensors, which it returns. It never waits for the device."""

WARM_UPS = 2
"""Plain calls before a capture. They make libraries choose and load their kernels, which must not happen during it."""

_CAPTURING = threading.Lock()
"""Lock for one capture at a time in a process, whichever engine it is for."""


class Runner(ABC):
    """Runs functions on a device in the order in which they were given."""

    @abstractmethod
    def in_order(self) -> AbstractContextManager[object]:
        """Put all work that is started inside in one order.

        Whichever threads start it, it begins on the device after everything that was started inside before.
        """

    @abstractmethod
    def capture(self, function: StaticFunction) -> StaticFunction:
        """Return a function that does the same again, with what the static tensors hold by then. Slow.

        Call both inside :meth:`in_order`. The next captured function of this runner overwrites the tensors that it
        returns.
        """

    @abstractmethod
    def fence(self) -> Callable[[], None]:
        """Return a function that waits until everything started so far is done. Call this inside :meth:`in_order`."""

    @abstractmethod
    def create_staging(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Create a zero tensor on the host that the device copies from and to without making the host wait."""


class EagerRunner(Runner):
    """Calls functions as they are, on a CPU."""

    def in_order(self) -> AbstractContextManager[object]:
        """See the base class. On a CPU, nothing is ever pending."""
        return nullcontext()

    def capture(self, function: StaticFunction) -> StaticFunction:
        """See the base class."""
        return function

    def fence(self) -> Callable[[], None]:
        """See the base class."""
        return lambda: None

    def create_staging(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """See the base class."""
        return torch.zeros(shape, dtype=dtype)


class CudaGraphRunner(Runner):
    """Captures functions as CUDA graphs, which share their memory, and replays them on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def in_order(self) -> AbstractContextManager[object]:
        """See the base class."""
        return torch.cuda.stream(self._stream)

    def capture(self, function: StaticFunction) -> StaticFunction:
        """See the base class. Other threads may use the device meanwhile, and so may other runners."""
        for _ in range(WARM_UPS):
            function()
        self._stream.synchronize()

        graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with _CAPTURING, capture:
            outputs = function()

        def replay() -> Sequence[Tensor]:
            graph.replay()
            return outputs

        return replay

    def fence(self) -> Callable[[], None]:
        """See the base class. A thread that waits leaves the processor to others."""
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(self._stream)
        return done.synchronize

    def create_staging(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """See the base class."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)


def create_runner(device: torch.device) -> Runner:
    """Create a runner for a device."""
    return CudaGraphRunner(device) if device.type == "cuda" else EagerRunner()
