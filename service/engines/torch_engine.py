"""Torch engine: runs the recommender's weights on a GPU or a CPU.

This file and those that it imports are the only ones of the service that need torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from model_store.catalogue.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.errors import BundleRefused
from model_store.network.recommender import Recommender
from model_store.network.search import BeamSearch
from model_store.search.interface import SearchInputs, SearchOutputs
from service.engines.base import BoundCatalogues, Engine
from service.engines.bf16 import Bf16Recommender
from service.engines.buckets import CapturePlan
from service.engines.cuda_graphs import create_runner
from service.engines.device_catalogue import DeviceCatalogue, PaddedLayout
from service.engines.static_search import BATCHES_IN_FLIGHT, CatalogueKind, StaticSearch

PREFIX = "recommender."
"""Prefix of the recommender's tensors in ``weights.safetensors``."""

EAGER_PLAN = CapturePlan(batches=(), lengths=(), width=0, candidates=0)
"""Plan that captures nothing, for a CPU: there are no launches to save, so padding would only cost."""

Precision = Literal["fp32", "bf16"]


class _Bound(NamedTuple):
    search: StaticSearch
    catalogue: DeviceCatalogue


class TorchEngine(Engine):
    """Engine that runs the recommender's weights.

    Args:
        weights: Tensors of ``weights.safetensors``; those of the tokenizer are ignored.
        config: The bundle's model.
        device: ``cuda``, ``cuda:1`` or ``cpu``; by default a GPU if there is one.
        plan: Buckets that are captured when the first catalogue is bound, and again when a catalogue outgrows its
            headroom. The plan's candidates apply to catalogues that get dense candidates at all.
        precision: ``bf16``: see :class:`~service.engines.bf16.Bf16Recommender`.
        has_dense: Whether answers need dense scores; see :class:`~model_store.network.search.BeamSearch`.

    Raises:
        BundleRefused: The tensors are not those of such a model.
    """

    name = "torch"

    def __init__(
        self,
        weights: Mapping[str, npt.NDArray[np.generic]],
        config: ModelConfig,
        device: str | None = None,
        plan: CapturePlan = EAGER_PLAN,
        precision: Precision = "fp32",
        has_dense: bool = True,
    ) -> None:
        self.max_history = config.recommender.max_history
        self.device = torch.device(device) if device else default_device()
        self.searches = BATCHES_IN_FLIGHT if self.device.type == "cuda" else 1
        self.reduced_precision = precision == "bf16"

        recommender = (Bf16Recommender if self.reduced_precision else Recommender)(config)
        _load_weights(recommender, weights)
        self._search = BeamSearch(recommender, has_dense).to(self.device).eval()

        self._plan = plan
        self._latest: StaticSearch | None = None
        self._bound = BoundCatalogues(self._bind)

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        """See :meth:`service.engines.base.Engine.compute`. A narrow beam may come back as wide as the plan's."""
        bound = self._bound.get(catalogue)
        return bound.search(inputs, bound.catalogue)

    def bind(self, catalogue: Catalogue) -> None:
        """See :meth:`service.engines.base.Engine.bind`."""
        self._bound.get(catalogue)

    def close(self) -> None:
        """Free the device's memory, even if someone still holds the engine."""
        self._latest = None
        self._bound = BoundCatalogues(self._bind)

    def _bind(self, catalogue: Catalogue) -> _Bound:
        """Copy a catalogue to the device, for the latest search if it fits there, else for a new one."""
        trie = catalogue.trie
        vectors = catalogue.vectors
        if vectors is None and self._search.recommender.reads_vectors:
            raise ValueError("this recommender reads histories as item vectors, but the catalogue has none")

        kind = CatalogueKind.of(trie, vectors)
        if self._latest is not None and self._latest.fits(trie, kind):
            return _Bound(self._latest, self._latest.catalogue_to_device(trie, vectors))

        layout = PaddedLayout.with_headroom(trie)
        search = StaticSearch(self._search, layout, kind, self._plan, create_runner(self.device))
        on_device = search.catalogue_to_device(trie, vectors)
        search.capture(on_device)
        self._latest = search
        return _Bound(search, on_device)


def default_device() -> torch.device:
    """Return a GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_weights(recommender: Recommender, weights: Mapping[str, npt.NDArray[np.generic]]) -> None:
    tensors = {
        name.removeprefix(PREFIX): torch.from_numpy(np.array(value))
        for name, value in weights.items()
        if name.startswith(PREFIX)
    }
    try:
        recommender.load_state_dict(tensors)
    except RuntimeError as cause:
        hint = "publish the model again, with the release that serves it"
        raise BundleRefused("weights.safetensors: not the recommender that the manifest describes", hint) from cause
