"""The exported search graph on ONNX Runtime: the default on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from model_store.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.errors import BundleRefused
from model_store.search_interface import (
    POOL,
    SearchInputs,
    SearchOutputs,
    catalogue_input_names,
    catalogue_inputs,
    graph_input_names,
)
from service.engines.base import BoundCatalogues, Engine

GRAPH = "search.onnx"
OUTPUTS = list(SearchOutputs._fields)

_ERRORS_ONLY = 3  # ONNX Runtime's severity for logs
_REFUSALS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxEngine(Engine):
    """Runs ``search.onnx``.

    Args:
        graph: The verified bytes of the file; weights are inside.
        config: The bundle's model.
        threads: Threads of one search; 0 lets ONNX Runtime take the physical cores.
        searches: Batches computed at the same time; they share the threads, so more than one wants ``threads`` 1,
            which gives each a core.

    Raises:
        BundleRefused: The bytes are no graph, or its inputs and outputs are not those of
            :mod:`model_store.search_interface`.
    """

    name = "onnx"

    def __init__(self, graph: bytes, config: ModelConfig, threads: int = 0, searches: int = 1) -> None:
        self.max_history = config.recommender.max_history
        self.searches = searches
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Threads that spin while they wait take the cores from the event loop and from each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except _REFUSALS as cause:
            hint = "export and publish the model again, with the release that serves it"
            raise BundleRefused(f"{GRAPH}: ONNX Runtime {ort.__version__} cannot load it", hint) from cause
        self._check_interface(config.code_length)
        self._embedding_dim = config.tokenizer.embedding_dim
        self._no_pool = ort.OrtValue.ortvalue_from_numpy(np.empty((0, self._embedding_dim), dtype=np.float32))
        self._bound = BoundCatalogues(self._catalogue_values)

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        """See :meth:`service.engines.base.Engine.compute`."""
        feeds = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs._asdict().items()}
        known = self._bound.of(catalogue)
        pool = known["leaf_vectors"] if len(inputs.candidates) else self._no_pool
        outputs = self._session.run_with_ort_values(OUTPUTS, feeds | known | {POOL: pool})
        return SearchOutputs(*(output.numpy() for output in outputs))

    def bind(self, catalogue: Catalogue) -> None:
        """See :meth:`service.engines.base.Engine.bind`."""
        self._bound.of(catalogue)

    def _catalogue_values(self, catalogue: Catalogue) -> dict[str, Any]:
        """The catalogue as device values."""
        names = catalogue_input_names(catalogue.trie.levels)
        arrays = catalogue_inputs(catalogue.trie, catalogue.vectors, self._embedding_dim)
        values = (ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in arrays)
        return dict(zip(names, values, strict=True))

    def _check_interface(self, levels: int) -> None:
        found = [value.name for value in self._session.get_inputs()]
        if found != graph_input_names(levels):
            raise BundleRefused(
                f"{GRAPH}: its inputs are {found}, expected {graph_input_names(levels)}", "export again"
            )
        if [value.name for value in self._session.get_outputs()] != OUTPUTS:
            raise BundleRefused(f"{GRAPH}: its outputs are not {OUTPUTS}", "export again")
