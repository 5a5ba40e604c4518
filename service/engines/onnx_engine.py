"""The exported search graph on ONNX Runtime: the default on a CPU.

A batch is cut into parts, at least one a core, and every part is searched by a single thread: threads inside one search
would wait for each other a thousand times a batch. A request that comes alone is the exception. Nothing else wants the
other cores then, so two threads search it and spin while they wait, which saves a quarter of its time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from model_store.bundle.onnx_session import open_session
from model_store.catalogue.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.search.interface import (
    BY_REQUEST,
    POOL,
    SearchInputs,
    SearchOutputs,
    catalogue_input_names,
    catalogue_inputs,
    graph_input_names,
    pool_vectors,
)
from service.engines.base import BoundCatalogues, Engine

GRAPH = "search.onnx"
EIGHT_BIT_GRAPH = "search.int8.onnx"
"""The same search with weights of 8 bits."""

USUAL_A_CORE, MOST_A_CORE = 4, 16
"""Requests of a batch for each core: from the first number on products fill a core, and the second gains a tenth."""

LARGEST_PART = 8
"""Requests of a part. Free cores take the next part, so that one which is busy elsewhere does not hold up a batch."""

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""What a container may use, on Linux (cgroup v2): microseconds of CPU time, or max, in so many microseconds."""

ALONE_THREADS = 2
"""Threads that search a request which came alone."""

OUTPUTS = list(SearchOutputs._fields)


class OnnxEngine(Engine):
    """Runs ``search.onnx``.

    Args:
        graph: The verified bytes of the file; weights are inside.
        config: The bundle's model.
        threads: Cores; 0: those that this process may use.
        searches: Batches computed at the same time; they share the cores.
        reduced_precision: Whether this is the graph with weights of 8 bits.

    Raises:
        BundleRefused: The bytes are no graph, or its inputs and outputs are not those of
            :mod:`model_store.search.interface`.
    """

    name = "onnx"

    def __init__(
        self,
        graph: bytes,
        config: ModelConfig,
        threads: int = 0,
        searches: int = 1,
        reduced_precision: bool = False,
    ) -> None:
        self.max_history = config.recommender.max_history
        self.searches, self.reduced_precision = searches, reduced_precision
        self._cores = threads or usable_cores()
        self.usual_batch, self.largest_batch = USUAL_A_CORE * self._cores, MOST_A_CORE * self._cores
        name, inputs = EIGHT_BIT_GRAPH if reduced_precision else GRAPH, graph_input_names(config.code_length)
        self._session = open_session(name, graph, inputs, OUTPUTS, threads=1)
        self._alone_threads = ALONE_THREADS if self._cores >= ALONE_THREADS and searches == 1 else 1
        self._alone = self._session
        if self._alone_threads > 1:
            self._alone = open_session(name, graph, inputs, OUTPUTS, self._alone_threads, spins=True)
        self._workers = ThreadPoolExecutor(self._cores, "onnx")
        self._counting = threading.Lock()
        self._computing = 0  # batches
        self._embedding_dim = config.tokenizer.embedding_dim
        self._bound = BoundCatalogues(self._catalogue_values)
        self._pools = BoundCatalogues(lambda catalogue: self._pool_value(catalogue, candidates=1))

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        """See :meth:`service.engines.base.Engine.compute`."""
        return self.compute_freeing(inputs, catalogue, lambda: None)

    def compute_freeing(self, inputs: SearchInputs, catalogue: Catalogue, free: Callable[[], None]) -> SearchOutputs:
        """See :meth:`service.engines.base.Engine.compute_freeing`: free is a core that finds no more parts to take."""
        pool = self._pools.of(catalogue) if len(inputs.candidates) else self._pool_value(catalogue, candidates=0)
        known = self._bound.of(catalogue) | {POOL: pool}
        size = len(inputs.lengths)
        with self._counting:
            is_alone = size == 1 and not self._computing and self._alone_threads > 1
            self._computing += 1
        try:
            if is_alone:
                return self._search(self._alone, inputs, known, helpers=self._alone_threads - 1)
            parts = split(inputs, self._cores * -(-size // (self._cores * LARGEST_PART)))
            all_taken = threading.Event()  # by then the last one is: workers take them in order

            def search(at: int, part: SearchInputs) -> SearchOutputs:
                if at == len(parts) - 1:
                    all_taken.set()
                found = self._search(self._session, part, known, helpers=1)
                if all_taken.is_set():
                    free()
                return found

            found = list(self._workers.map(search, range(len(parts)), parts))
            return SearchOutputs(*map(np.concatenate, zip(*found, strict=True)))
        finally:
            with self._counting:
                self._computing -= 1

    def close(self) -> None:
        """End the threads, when what they compute is done."""
        self._workers.shutdown()

    def _search(
        self, session: ort.InferenceSession, inputs: SearchInputs, known: dict[str, Any], helpers: int
    ) -> SearchOutputs:
        """Run the graph in this thread.

        Args:
            session: Of one thread or several.
            inputs: Of a batch or a part of it.
            known: Inputs that stay.
            helpers: Threads of the engine that this keeps busy, itself included if it is one.
        """
        started = time.thread_time()
        binding = session.io_binding()  # a twentieth of a lone request faster than to pass dictionaries
        for name, value in known.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in inputs._asdict().items():
            binding.bind_cpu_input(name, array)
        for name in OUTPUTS:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        found = SearchOutputs(*binding.copy_outputs_to_cpu())
        with self._counting:
            # Threads that spin are busy for as long as the one that calls them.
            self.helper_cpu_s += helpers * (time.thread_time() - started)
        return found

    def bind(self, catalogue: Catalogue) -> None:
        """See :meth:`service.engines.base.Engine.bind`."""
        self._bound.of(catalogue)
        if self._pools:  # requests of this model ask for dense candidates
            self._pools.of(catalogue)

    def _catalogue_values(self, catalogue: Catalogue) -> dict[str, Any]:
        """The catalogue as device values."""
        names = catalogue_input_names(catalogue.trie.levels)
        arrays = catalogue_inputs(catalogue.trie, catalogue.vectors, self._embedding_dim)
        values = (ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in arrays)
        return dict(zip(names, values, strict=True))

    def _pool_value(self, catalogue: Catalogue, candidates: int) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(
            pool_vectors(catalogue.trie, catalogue.vectors, self._embedding_dim, candidates)
        )


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """Cores that this process may run on, or that a container's limit gives it the time of, if those are fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not quota.is_file():
        return cores
    granted, period = quota.read_text().split()
    return cores if granted == "max" else max(1, min(cores, ceil(int(granted) / int(period))))


def split(inputs: SearchInputs, parts: int) -> Sequence[SearchInputs]:
    """A batch as at most so many batches of nearly one size, in order; they share the masks of rules."""
    size = len(inputs.lengths)
    ends = np.linspace(0, size, min(parts, size) + 1, dtype=np.int64)
    return [
        inputs._replace(**{name: getattr(inputs, name)[start:end] for name in BY_REQUEST})
        for start, end in pairwise(ends.tolist())
    ]
