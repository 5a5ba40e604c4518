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
from service.engines.base import Engine

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
        threads: Threads of one run; 0 lets ONNX Runtime take the physical cores.

    Raises:
        BundleRefused: The bytes are no graph, or its inputs and outputs are not those of
            :mod:`model_store.search_interface`.
    """

    name = "onnx"

    def __init__(self, graph: bytes, config: ModelConfig, threads: int = 0) -> None:
        self.max_history = config.recommender.max_history
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except _REFUSALS as cause:
            hint = "export and publish the model again, with the release that serves it"
            raise BundleRefused(f"{GRAPH}: ONNX Runtime {ort.__version__} cannot load it", hint) from cause
        self._check_interface(config.code_length)
        self._embedding_dim = config.tokenizer.embedding_dim
        self._no_pool = ort.OrtValue.ortvalue_from_numpy(np.empty((0, self._embedding_dim), dtype=np.float32))
        self._bound: tuple[Catalogue, dict[str, Any]] | None = None

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        """See :meth:`service.engines.base.Engine.compute`."""
        feeds = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs._asdict().items()}
        known = self._catalogue_values(catalogue)
        pool = known["leaf_vectors"] if len(inputs.candidates) else self._no_pool
        outputs = self._session.run_with_ort_values(OUTPUTS, feeds | known | {POOL: pool})
        return SearchOutputs(*(output.numpy() for output in outputs))

    def _catalogue_values(self, catalogue: Catalogue) -> dict[str, Any]:
        """The catalogue as device values, made once per revision."""
        if self._bound is None or self._bound[0] is not catalogue:
            names = catalogue_input_names(catalogue.trie.levels)
            arrays = catalogue_inputs(catalogue.trie, catalogue.vectors, self._embedding_dim)
            values = (ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in arrays)
            self._bound = catalogue, dict(zip(names, values, strict=True))
        return self._bound[1]

    def _check_interface(self, levels: int) -> None:
        found = [value.name for value in self._session.get_inputs()]
        if found != graph_input_names(levels):
            raise BundleRefused(
                f"{GRAPH}: its inputs are {found}, expected {graph_input_names(levels)}", "export again"
            )
        if [value.name for value in self._session.get_outputs()] != OUTPUTS:
            raise BundleRefused(f"{GRAPH}: its outputs are not {OUTPUTS}", "export again")
