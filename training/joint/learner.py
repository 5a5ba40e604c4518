"""State of joint training: tokenizer, recommender and the current semantic IDs of all items."""

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
from training.blending.fit import NO_BLEND, Blend
from training.embedding.sasrec import Sasrec, SasrecConfig
from training.joint.code_tree import CodeTree
from training.loop.checkpoint import State
from training.loop.compute import FP32, ComputeConfig
from training.loop.item_softmax import NEGATIVES, SAMPLED_ABOVE, Proposal
from training.tokenizer.codebooks import all_latents
from training.tokenizer.collisions import Assignment, Codes, assign_codes


@dataclass
class Learner:
    """Both networks with the current codes, which follow the tokenizer only when they are refreshed.

    Attributes:
        embeddings: Raw item embeddings, ``[items, d_s]``.
        history: Mean losses and metrics, one dict an epoch.
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
        """Unit-length item vectors ``[items, d_s]``, for encoders of histories and for dense scores.

        They are the items' embeddings themselves. Reconstructions from codes, which need no storage, lost 30 % of the
        dense ranking's NDCG (docs/LOG.md).
        """
        return item_vectors(self.embeddings).cpu().numpy()

    def tree(self, interactions: npt.NDArray[np.integer]) -> CodeTree:
        """Return the trie of the current codes for the losses; ``interactions`` are the item rows trained on."""
        items = len(self.embeddings)
        size = self.model.tokenizer.codebook_size
        proposal = Proposal(interactions, items, NEGATIVES) if items > SAMPLED_ABOVE else None
        return CodeTree(self.assignment.codes, size, item_vectors(self.embeddings), proposal)

    def refresh_codes(self, stickiness: float) -> int:
        """Recompute the semantic IDs (see ``assign_codes``), and return the number of items that changed."""
        before = self.assignment.codes
        self.assignment = current_assignment(self.model, self.tokenizer, self.embeddings, before, stickiness)
        return int((before != self.assignment.codes).any(axis=1).sum())

    def tensors(self) -> dict[str, Tensor]:
        """Return all weights and buffers by name, prefixed with the name of their network and a dot."""
        return {f"{name}.{key}": value for name, part in self._parts() for key, value in part.state_dict().items()}

    def state(self) -> State:
        """Return everything, the codes too: they do not follow from the weights alone."""
        assignment = self.assignment
        numbers = [assignment.collision_rate, assignment.largest_group, assignment.moved]
        tensors = self.tensors() | {"codes": torch.from_numpy(assignment.codes)}
        return State(tensors, {"assignment": numbers, "history": self.history})

    def restore(self, state: State) -> None:
        """Set everything to what :meth:`state` returned; both networks are in evaluation mode afterwards."""
        self._load_networks(state.tensors)
        self.assignment = assignment_of(state)
        self.history = state.values["history"]

    def _load_networks(self, tensors: Mapping[str, Tensor]) -> None:
        for name, part in self._parts():
            prefix = f"{name}."
            part.load_state_dict({key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)})
            part.eval()

    def _parts(self) -> tuple[tuple[str, nn.Module], ...]:
        return ("tokenizer", self.tokenizer), ("recommender", self.recommender)


def assignment_of(state: State) -> Assignment:
    """Return the codes in the state of a learner, with their statistics."""
    return Assignment(state.tensors["codes"].numpy(), *state.values["assignment"])


def item_vectors(embeddings: Tensor) -> Tensor:
    """Scale raw embeddings ``[items, d_s]`` to unit length."""
    return functional.normalize(embeddings, dim=-1)


def can_start_from(model: ModelConfig, sasrec: SasrecConfig) -> bool:
    """Return whether the recommender reads item vectors through an encoder of SASRec's shape."""
    shape = model.recommender
    return shape.history_tokens == "vector" and encoder_shape(shape) == sasrec.encoder


def current_assignment(
    model: ModelConfig,
    tokenizer: Tokenizer,
    embeddings: Tensor,
    incumbent: Codes | None = None,
    stickiness: float = 0.0,
) -> Assignment:
    """Assign semantic IDs to raw embeddings by a tokenizer; the model's policy resolves collisions."""
    # Always on the CPU: codes must not change when a run that was trained on a GPU is loaded without one.
    with torch.no_grad():
        on_cpu = copy.deepcopy(tokenizer).cpu().eval()
        latents = all_latents(on_cpu, embeddings.cpu())
        codebooks = on_cpu.codebooks.detach()
        return assign_codes(latents, codebooks, model.collisions, incumbent, stickiness)


def new_learner(
    model: ModelConfig,
    tokenizer: Tokenizer,
    embeddings: Tensor,
    seed: int,
    sasrec: Sasrec | None = None,
    codes: Codes | None = None,
    compute: ComputeConfig = FP32,
    blend: Blend = NO_BLEND,
    stored: State | None = None,
) -> Learner:
    """Create a learner of a trained tokenizer and a fresh recommender, which starts from SASRec where shapes allow it.

    Args:
        model: Shapes of both networks.
        tokenizer: Trained tokenizer, from which the codes follow.
        embeddings: Raw, ``[items, d_s]``.
        seed: Seed of the recommender's initial weights.
        sasrec: Model whose encoder and dense parts to start from.
        codes: Codes ``[items, L]`` from an earlier run of this tokenizer; default: its nearest ones.
        compute: Precision and compilation of the recommender in training.
        blend: Share of content in the embeddings and in dense scores, and the penalty of repeats.
        stored: State to take over; then no codes are computed, which takes long for millions of items.
    """
    torch.manual_seed(seed)
    recommender = compute.prepare(Recommender(model).to(embeddings.device))

    if sasrec is not None:
        _start_from(recommender, model, sasrec, blend)

    recommender.content_share.fill_(blend.share)
    if stored is not None:
        learner = Learner(model, tokenizer, recommender, embeddings, assignment_of(stored), compute)
        learner.restore(stored)
        return learner

    assignment = current_assignment(model, tokenizer, embeddings)
    if codes is not None:
        assignment = replace(assignment, codes=codes)
    return Learner(model, tokenizer, recommender, embeddings, assignment, compute)


@torch.no_grad()
def _start_from(recommender: Recommender, model: ModelConfig, sasrec: Sasrec, blend: Blend) -> None:
    """Load SASRec's weights into the parts of the recommender whose shapes allow it."""
    is_alike = can_start_from(model, sasrec.config)
    parts = recommender.user_parts if is_alike or model.recommender.user_encoder == "own" else {}
    for name, part in parts.items():
        if part is not recommender.vector_in:
            part.load_state_dict(sasrec.get_submodule(name).state_dict())
    if recommender.repeat_bias is not None and parts:
        recommender.repeat_bias.weight.mul_(1 - blend.share).sub_(blend.repeat_penalty)

    if recommender.vector_in is not None and is_alike:
        recommender.encoder.load_state_dict(sasrec.encoder.state_dict())
        # Item vectors end with content, which SASRec has not read; what it has read is shorter in them.
        width = sasrec.config.embedding_dim
        recommender.vector_in.weight.zero_()
        recommender.vector_in.weight[:, :width] = sasrec.vector_in.weight / (1 - blend.share) ** 0.5
