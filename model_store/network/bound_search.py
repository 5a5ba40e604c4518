"""Torch search with one catalogue on the device: NumPy in, NumPy out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.network.search import BeamSearch
from model_store.search.fusion import scores_all_items
from model_store.search.interface import SearchInputs, SearchOutputs, catalogue_inputs, pool_vectors
from model_store.semantic_ids.trie import Trie


class BoundSearch:
    """Search of one catalogue revision, whose arrays are copied to the recommender's device once.

    Args:
        search: In evaluation mode.
        trie: The catalogue.
        vectors: Unit length, ``[items, d_s]`` by catalogue row; with ``None`` every dense score is 0.
        scores_all: Whether dense candidates come from all items; default: what is done in a catalogue of this size.

    Raises:
        ValueError: The recommender reads histories as vectors, and none are given.
    """

    def __init__(
        self,
        search: BeamSearch,
        trie: Trie,
        vectors: npt.NDArray[np.float32] | None = None,
        scores_all: bool | None = None,
    ) -> None:
        if vectors is None and search.recommender.reads_vectors:
            raise ValueError("this recommender reads histories as item vectors; none were given")
        self.trie = trie
        self._search = search
        self._vectors = vectors
        self._scores_all = scores_all_items(trie.items) if scores_all is None else scores_all
        self._pools: dict[bool, Tensor] = {}

        arrays = catalogue_inputs(trie, vectors, search.recommender.embedding_dim)
        # Arrays of a snapshot are read-only views; torch warns of those.
        self._catalogue = [self._to_device(np.require(array, requirements=("C", "W"))) for array in arrays]

    def __call__(self, inputs: SearchInputs) -> SearchOutputs:
        """Search one batch."""
        with torch.inference_mode():
            outputs = self._search(*self._arguments(inputs))
            return SearchOutputs(*(output.cpu().numpy() for output in outputs))

    def trace(self, inputs: SearchInputs) -> list[npt.NDArray[np.int64]]:
        """Return the nodes of the beams after each code, see :meth:`~model_store.network.search.BeamSearch.trace`."""
        with torch.inference_mode():
            return [nodes.cpu().numpy() for nodes in self._search.trace(*self._arguments(inputs))]

    def dense_users(self, inputs: SearchInputs) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return users' vectors and repeats, see :meth:`~model_store.network.search.BeamSearch.dense_users`."""
        with torch.inference_mode():
            users, repeats = self._search.dense_users(*self._arguments(inputs))
            return users.float().cpu().numpy(), repeats.float().cpu().numpy()

    def _arguments(self, inputs: SearchInputs) -> list[Tensor]:
        return [*(self._to_device(array) for array in inputs), *self._catalogue, self._pool(len(inputs.candidates))]

    def _pool(self, candidates: int) -> Tensor:
        has_rows = candidates > 0 and self._scores_all
        if has_rows not in self._pools:
            pool = pool_vectors(self.trie, self._vectors, self._search.recommender.embedding_dim, has_rows)
            self._pools[has_rows] = self._to_device(pool)
        return self._pools[has_rows]

    def _to_device(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._search.recommender.bos.device, non_blocking=True)
