"""ONNX engine: runs the exported search graph on ONNX Runtime; the default on a CPU.

A batch is split into parts, at least one per core, and every part is searched by a single thread. Several threads
inside one search would wait for each other a thousand times per batch. The exception is a request that comes alone:
nothing else needs the other cores then, so two threads search it and spin while they wait, which saves a quarter of its
time.
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
from model_store.search.fusion import scores_all_items
from model_store.search.interface import (
    BY_REQUEST,
    POOL,
    STEERING,
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

USUAL_PER_CORE = 4
"""Requests of a batch for each core from which on matrix products fill the core."""

MAX_PER_CORE = 16
"""Requests of a batch for each core at most; they are a tenth faster per request than :data:`USUAL_PER_CORE`."""

LARGEST_PART = 8
"""Requests of a part at most. A free core takes the next part, so a core that is busy elsewhere does not delay a
batch."""

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""File with the CPU limit of a container, on Linux (cgroup v2).

It holds two numbers: the microseconds of CPU time, or ``max``, that the container may use in each period of so many
microseconds.
"""

ALONE_THREADS = 2
"""Threads that search a request that came alone."""

OUTPUTS = list(SearchOutputs._fields)


class OnnxEngine(Engine):
    """Engine that runs ``search.onnx``.

    Args:
        graph: Verified bytes of the file, weights included.
        config: The bundle's model.
        threads: Cores to use; 0: all that this process may use.
        searches: Batches computed at the same time; they share the cores.
        reduced_precision: Whether this is the graph with weights of 8 bits.

    Raises:
        BundleRefused: The bytes are not a graph, or its inputs and outputs are not those of
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
        self.searches = searches
        self.reduced_precision = reduced_precision
        self._cores = threads or usable_cores()
        self.usual_batch = USUAL_PER_CORE * self._cores
        self.largest_batch = MAX_PER_CORE * self._cores

        name = EIGHT_BIT_GRAPH if reduced_precision else GRAPH
        inputs = graph_input_names(config.code_length)
        self._session = open_session(name, graph, inputs, OUTPUTS, threads=1, optional=STEERING)
        taken = {value.name for value in self._session.get_inputs()}
        self.can_steer = taken.issuperset(STEERING)
        self._request_inputs = [field for field in SearchInputs._fields if field in taken]
        self._alone_threads = ALONE_THREADS if self._cores >= ALONE_THREADS and searches == 1 else 1
        self._alone = self._session
        if self._alone_threads > 1:
            self._alone = open_session(name, graph, inputs, OUTPUTS, self._alone_threads, spins=True, optional=STEERING)

        self._workers = ThreadPoolExecutor(self._cores, "onnx")
        self._counting = threading.Lock()
        self._computing = 0  # batches

        self._embedding_dim = config.tokenizer.embedding_dim
        self._bound = BoundCatalogues(self._catalogue_values)
        self._pools = BoundCatalogues(lambda catalogue: self._pool_value(catalogue, scores_all_items(len(catalogue))))

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        """See :meth:`service.engines.base.Engine.compute`."""
        return self.compute_overlapped(inputs, catalogue, lambda: None)

    def compute_overlapped(
        self, inputs: SearchInputs, catalogue: Catalogue, on_free: Callable[[], None]
    ) -> SearchOutputs:
        """See :meth:`service.engines.base.Engine.compute_overlapped`.

        The engine is free when the first core finds no more parts to take.
        """
        pool = self._pools.get(catalogue) if len(inputs.candidates) else self._pool_value(catalogue, has_rows=False)
        bound = self._bound.get(catalogue) | {POOL: pool}
        size = len(inputs.lengths)

        with self._counting:
            is_alone = size == 1 and not self._computing and self._alone_threads > 1
            self._computing += 1
        try:
            if is_alone:
                return self._search(self._alone, inputs, bound, helpers=self._alone_threads - 1)

            # As many parts for each core, of LARGEST_PART at most. Workers take them in order.
            parts = split_batch(inputs, self._cores * -(-size // (self._cores * LARGEST_PART)))
            last_is_taken = threading.Event()

            def search(at: int, part: SearchInputs) -> SearchOutputs:
                if at == len(parts) - 1:
                    last_is_taken.set()
                outputs = self._search(self._session, part, bound, helpers=1)
                if last_is_taken.is_set():
                    on_free()
                return outputs

            found = list(self._workers.map(search, range(len(parts)), parts))
            return SearchOutputs(*map(np.concatenate, zip(*found, strict=True)))
        finally:
            with self._counting:
                self._computing -= 1

    def close(self) -> None:
        """End the threads when their current work is done."""
        self._workers.shutdown()

    def _search(
        self, session: ort.InferenceSession, inputs: SearchInputs, bound: dict[str, Any], helpers: int
    ) -> SearchOutputs:
        """Run the graph in this thread.

        Args:
            session: Session of one thread or several.
            inputs: A batch or a part of it.
            bound: Inputs of the catalogue, which stay on the device.
            helpers: Threads of the engine that this call keeps busy, this one included if it is one of them.
        """
        started = time.thread_time()

        # For a request that comes alone, a binding takes a twentieth less time than dictionaries.
        binding = session.io_binding()
        for name, value in bound.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._request_inputs:
            binding.bind_cpu_input(name, getattr(inputs, name))
        for name in OUTPUTS:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        outputs = SearchOutputs(*binding.copy_outputs_to_cpu())

        with self._counting:
            # Threads that spin are busy for as long as the one that calls them.
            self.helper_cpu_s += helpers * (time.thread_time() - started)
        return outputs

    def bind(self, catalogue: Catalogue) -> None:
        """See :meth:`service.engines.base.Engine.bind`."""
        self._bound.get(catalogue)
        if self._pools:  # requests of this model ask for dense candidates
            self._pools.get(catalogue)

    def _catalogue_values(self, catalogue: Catalogue) -> dict[str, Any]:
        """Return the catalogue's inputs of the graph, by name, as values of ONNX Runtime."""
        names = catalogue_input_names(catalogue.trie.levels)
        arrays = catalogue_inputs(catalogue.trie, catalogue.vectors, self._embedding_dim)
        values = (ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in arrays)
        return dict(zip(names, values, strict=True))

    def _pool_value(self, catalogue: Catalogue, has_rows: bool) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(
            pool_vectors(catalogue.trie, catalogue.vectors, self._embedding_dim, has_rows)
        )


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """Return the number of cores that this process may use.

    This is the number it may run on, or that a container's CPU limit amounts to if this is lower.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not quota.is_file():
        return cores
    granted, period = quota.read_text().split()
    return cores if granted == "max" else max(1, min(cores, ceil(int(granted) / int(period))))


def split_batch(inputs: SearchInputs, parts: int) -> Sequence[SearchInputs]:
    """Split a batch into at most so many of nearly equal size, in order; they share the masks of rules."""
    size = len(inputs.lengths)
    ends = np.linspace(0, size, min(parts, size) + 1, dtype=np.int64)
    return [
        inputs._replace(**{name: getattr(inputs, name)[start:end] for name in BY_REQUEST})
        for start, end in pairwise(ends.tolist())
    ]
