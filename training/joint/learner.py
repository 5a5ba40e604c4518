"""What joint training changes: tokenizer, recommender and the codes that follow from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.config import ModelConfig
from model_store.network.recommender import Recommender, encoder_shape
from model_store.network.tokenizer import Tokenizer
from training.embedding.sasrec import Sasrec, SasrecConfig
from training.joint.code_tree import CodeTree
from training.loop.checkpoint import State
from training.loop.compute import FP32, ComputeConfig
from training.loop.item_softmax import SAMPLED_ABOVE, Proposal
from training.tokenizer.collisions import Assignment, Codes, assign_codes


@dataclass
class Learner:
    """Both networks with the current codes, which follow the tokenizer when they are refreshed, and not before.

    Attributes:
        embeddings: Raw item embeddings, ``[items, d_s]``.
        history: One dict of mean losses and metrics per epoch, in order.
    """

    model: ModelConfig
    tokenizer: Tokenizer
    recommender: Recommender
    embeddings: Tensor
    assignment: Assignment
    compute: ComputeConfig = FP32
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def codes(self) -> Tensor:
        """Semantic IDs on the device, ``[items, L]`` int64."""
        return torch.from_numpy(self.assignment.codes.astype(np.int64)).to(self.embeddings.device)

    @property
    def vectors(self) -> npt.NDArray[np.float32]:
        """What histories are read as and dense scores compare users with: unit-length rows, ``[items, d_s]``.

        They are the items' embeddings themselves. Reconstructions of their codes, which need no storage, lost 30 % of
        the dense ranking's NDCG (docs/LOG.md).
        """
        return item_vectors(self.embeddings).cpu().numpy()

    def tree(self, interactions: npt.NDArray[np.integer]) -> CodeTree:
        """The current codes and all vectors as losses read them; ``interactions`` are the item rows trained on."""
        items, size = len(self.embeddings), self.model.tokenizer.codebook_size
        proposal = Proposal(interactions, items, negatives=0) if items > SAMPLED_ABOVE else None
        return CodeTree(self.assignment.codes, size, item_vectors(self.embeddings), proposal)

    def refresh_codes(self, stickiness: float) -> int:
        """Semantic IDs that follow the tokenizer (see ``assign_codes``); returns how many items changed."""
        before = self.assignment.codes
        self.assignment = current_assignment(self.model, self.tokenizer, self.embeddings, before, stickiness)
        return int((before != self.assignment.codes).any(axis=1).sum())

    def tensors(self) -> dict[str, Tensor]:
        """All weights and buffers by name, those of each network after its own name and a dot."""
        return {f"{name}.{key}": value for name, part in self._parts() for key, value in part.state_dict().items()}

    def state(self) -> State:
        """Everything, see :class:`training.loop.checkpoint.Resumable`. Codes do not follow from the weights alone."""
        found = self.assignment
        numbers = [found.collision_rate, found.largest_group, found.moved]
        tensors = self.tensors() | {"codes": torch.from_numpy(found.codes)}
        return State(tensors, {"assignment": numbers, "history": self.history})

    def restore(self, state: State) -> None:
        """Take what :meth:`state` gave; both networks are in evaluation mode afterwards."""
        self._take(state.tensors)
        self.assignment = Assignment(state.tensors["codes"].numpy(), *state.values["assignment"])
        self.history = state.values["history"]

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        for name, part in self._parts():
            prefix = f"{name}."
            part.load_state_dict({key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)})
            part.eval()

    def _parts(self) -> tuple[tuple[str, nn.Module], ...]:
        return ("tokenizer", self.tokenizer), ("recommender", self.recommender)


def item_vectors(embeddings: Tensor) -> Tensor:
    """Raw embeddings ``[items, d_s]`` at unit length."""
    return functional.normalize(embeddings, dim=-1)


def can_start_from(model: ModelConfig, sasrec: SasrecConfig) -> bool:
    """Whether the decoder reads item vectors through an encoder of SASRec's shape."""
    shape = model.recommender
    return shape.history_tokens == "vector" and encoder_shape(shape) == sasrec.encoder


def current_assignment(
    model: ModelConfig,
    tokenizer: Tokenizer,
    embeddings: Tensor,
    incumbent: Codes | None = None,
    stickiness: float = 0.0,
) -> Assignment:
    """Semantic IDs that a tokenizer gives to raw embeddings, collisions resolved by the model's policy."""
    # On the CPU always: codes must not change because a run that was trained on a GPU is loaded without one.
    with torch.no_grad():
        judge = copy.deepcopy(tokenizer).cpu().eval()
        latents, books = judge.latents(embeddings.cpu()), judge.codebooks.detach()
        return assign_codes(latents, books, model.collisions, incumbent, stickiness)


def new_learner(
    model: ModelConfig,
    tokenizer: Tokenizer,
    embeddings: Tensor,
    seed: int,
    sasrec: Sasrec | None = None,
    codes: Codes | None = None,
    compute: ComputeConfig = FP32,
) -> Learner:
    """A trained tokenizer with a fresh recommender, whose encoder starts from SASRec's if both have one shape.

    Args:
        model: Shapes of both.
        tokenizer: Gives the codes.
        embeddings: Raw, ``[items, d_s]``.
        seed: Of the recommender's first weights.
        sasrec: Whose encoder to start from.
        codes: ``[items, L]``, given by this tokenizer on an earlier way, to go on with; default: its nearest ones.
        compute: How the recommender is computed in training.
    """
    torch.manual_seed(seed)
    recommender = compute.suited(Recommender(model).to(embeddings.device))
    if sasrec is not None:
        if recommender.vector_in is not None and can_start_from(model, sasrec.config):
            recommender.vector_in.load_state_dict(sasrec.vector_in.state_dict())
            recommender.encoder.load_state_dict(sasrec.encoder.state_dict())
        if can_start_from(model, sasrec.config) or model.recommender.user_encoder == "own":
            for name, part in recommender.user_parts.items():
                part.load_state_dict(sasrec.get_submodule(name).state_dict())
    assignment = current_assignment(model, tokenizer, embeddings)
    if codes is not None:
        assignment = replace(assignment, codes=codes)
    return Learner(model, tokenizer, recommender, embeddings, assignment, compute)
