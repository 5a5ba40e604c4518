"""What joint training changes: tokenizer, recommender and the codes that follow from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from model_store.config import ModelConfig
from model_store.network.recommender import Recommender
from model_store.network.tokenizer import Tokenizer
from training.collisions import Assignment, assign_codes


@dataclass
class Learner:
    """Both networks with the current codes. ``assignment`` is derived from the tokenizer; refresh it after changes.

    Attributes:
        embeddings: Raw item embeddings, ``[items, d_s]``.
        history: One dict of mean losses and metrics per epoch, in order.
    """

    model: ModelConfig
    tokenizer: Tokenizer
    recommender: Recommender
    embeddings: Tensor
    assignment: Assignment
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def codes(self) -> Tensor:
        """Semantic IDs on the device, ``[items, L]`` int64."""
        return torch.from_numpy(self.assignment.codes.astype(np.int64)).to(self.embeddings.device)

    def refresh_codes(self) -> int:
        """Recompute semantic IDs from the tokenizer; returns how many items changed."""
        before = self.assignment.codes
        self.assignment = current_assignment(self.model, self.tokenizer, self.embeddings)
        return int((before != self.assignment.codes).any(axis=1).sum())

    def tensors(self) -> dict[str, Tensor]:
        """All weights and buffers by name, those of each network after its own name and a dot."""
        return {f"{name}.{key}": value for name, part in self._parts() for key, value in part.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what :meth:`tensors` gave, and recompute the codes; both networks are in evaluation mode afterwards."""
        for name, part in self._parts():
            prefix = f"{name}."
            part.load_state_dict({key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)})
            part.eval()
        self.refresh_codes()

    def _parts(self) -> tuple[tuple[str, nn.Module], ...]:
        return ("tokenizer", self.tokenizer), ("recommender", self.recommender)


def current_assignment(model: ModelConfig, tokenizer: Tokenizer, embeddings: Tensor) -> Assignment:
    """Semantic IDs that a tokenizer gives to raw embeddings, collisions resolved by the model's policy."""
    # On the CPU always: codes must not change because a run that was trained on a GPU is loaded without one.
    with torch.no_grad():
        judge = copy.deepcopy(tokenizer).cpu().eval()
        return assign_codes(judge.latents(embeddings.cpu()), judge.codebooks.detach(), model.collisions)


def new_learner(model: ModelConfig, tokenizer: Tokenizer, embeddings: Tensor, seed: int) -> Learner:
    """A pretrained tokenizer with a fresh recommender."""
    torch.manual_seed(seed)
    recommender = Recommender(model).to(embeddings.device)
    return Learner(model, tokenizer, recommender, embeddings, current_assignment(model, tokenizer, embeddings))
