"""The exported search graph on ONNX Runtime: the default on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort

from model_store.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.onnx_session import open_session
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
        names = graph_input_names(config.code_length)
        self._session = open_session(GRAPH, graph, names, OUTPUTS, threads)
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
