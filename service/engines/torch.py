"""The search as a torch module, for a GPU or a CPU. The only room of the service that needs torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from model_store.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.errors import BundleRefused
from model_store.network.bound import BoundSearch
from model_store.network.recommender import Recommender
from model_store.network.search import BeamSearch
from model_store.search_interface import SearchInputs, SearchOutputs
from service.engines.base import BoundCatalogues, Engine

PREFIX = "recommender."
"""Of the recommender's tensors in ``weights.safetensors``."""


class TorchEngine(Engine):
    """Runs the recommender's weights.

    Args:
        weights: Tensors of ``weights.safetensors``; those of the tokenizer are left aside.
        config: The bundle's model.
        device: ``cuda``, ``cuda:1`` or ``cpu``; by default a GPU if there is one.

    Raises:
        BundleRefused: The tensors are not those of such a model.
    """

    name = "torch"

    def __init__(
        self, weights: Mapping[str, npt.NDArray[np.generic]], config: ModelConfig, device: str | None = None
    ) -> None:
        self.max_history = config.recommender.max_history
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        recommender = Recommender(config)
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
        self._search = BeamSearch(recommender).to(self.device).eval()
        self._bound = BoundCatalogues(lambda catalogue: BoundSearch(self._search, catalogue.trie, catalogue.vectors))

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        """See :meth:`service.engines.base.Engine.compute`."""
        return self._bound.of(catalogue)(inputs)

    def bind(self, catalogue: Catalogue) -> None:
        """See :meth:`service.engines.base.Engine.bind`."""
        self._bound.of(catalogue)
