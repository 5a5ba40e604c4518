"""SASRec: a causal transformer over a user's items, whose item embeddings the tokenizer reads.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, with three changes: full cross-entropy over all
items instead of one sampled negative, which is what makes it a strong baseline (Klenitskiy and Vasilev, RecSys 2023);
cosines over a temperature instead of products, so that popular items cannot win by length; and the recommender's own
encoder with relative positions, so that a recommender of the same shape starts from what was learned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from model_store.config import Section
from model_store.network.encoder import EncoderShape, HistoryEncoder, VectorMap
from model_store.network.layers import Dropout
from model_store.network.repeat_bias import RepeatBias
from training.data.dataset import Split
from training.evaluation.metrics import Ranks, both_protocols
from training.loop.item_softmax import NEGATIVES, SAMPLED_ABOVE, Additions

Int32Array = npt.NDArray[np.int32]

EVALUATION_USERS = 256
"""Largest number of users scored at once."""

SCORES_AT_ONCE = 1 << 26
"""Largest number of scores in memory at a time, 256 MiB."""


class SasrecConfig(Section):
    """Shape and training of SASRec."""

    embedding_dim: int = Field(256, ge=2, le=4096, description="d_s, width of item embeddings and of the model")
    layers: int = Field(2, ge=1, le=16, description="transformer blocks")
    heads: int = Field(4, ge=1, le=64, description="attention heads")
    head_dim: int = Field(32, ge=2, le=256, description="width of one head")
    d_ff: int = Field(512, ge=2, le=8192, description="width of the feed-forward block")
    low_pass: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="share of a low-pass filter in how a block mixes positions, attention has the rest",
    )
    position_buckets: int = Field(32, ge=4, le=256, description="buckets of the relative position bias")
    max_distance: int = Field(128, ge=8, le=4096, description="distance from which positions share the last bucket")
    dropout: float = Field(0.5, ge=0.0, lt=1.0, description="dropout rate while training")
    max_history: int = Field(50, ge=1, le=1024, description="newest items of a history that the model reads")
    temperature: float = Field(0.07, gt=0.0, description="divides the cosines of users and items")
    learning_rate: float = Field(1e-3, gt=0.0, le=1.0, description="AdamW step size, cosine with warm-up")
    weight_decay: float = Field(0.01, ge=0.0, le=10.0, description="AdamW weight decay")
    warmup: float = Field(0.02, ge=0.0, lt=1.0, description="share of all steps spent warming up")
    batch_tokens: int = Field(1024, ge=2, description="maximum positions of a batch, padding included")
    epochs: int = Field(20, ge=1, description="maximum number of epochs")
    patience: int = Field(5, ge=1, description="epochs without a better validation NDCG@10 before training stops")
    softmax: Literal["auto", "full", "sampled"] = Field(
        "auto", description=f"loss over all items or sampled ones; auto: sampled above {SAMPLED_ABOVE:,} items"
    )
    negatives: int = Field(
        NEGATIVES, ge=1, description="sampled softmax: items drawn for a batch, besides its own targets"
    )

    @property
    def encoder(self) -> EncoderShape:
        """Shape of the encoder."""
        return EncoderShape(
            d_model=self.embedding_dim,
            d_ff=self.d_ff,
            heads=self.heads,
            head_dim=self.head_dim,
            layers=self.layers,
            position_buckets=self.position_buckets,
            max_distance=self.max_distance,
            is_causal=True,
            low_pass=self.low_pass,
        )

    def is_sampled(self, n_items: int) -> bool:
        """Return whether the loss over this many items is estimated from sampled ones."""
        return self.softmax == "sampled" or (self.softmax == "auto" and n_items > SAMPLED_ABOVE)


class Sasrec(nn.Module):
    """SASRec network: one user vector a position; an item's score is its cosine with that, over the temperature."""

    def __init__(self, config: SasrecConfig, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.item_embedding = nn.Embedding(n_items, config.embedding_dim)
        nn.init.normal_(self.item_embedding.weight, std=0.02)
        self.vector_in = VectorMap.into_model(config.embedding_dim, config.embedding_dim)
        self.encoder = HistoryEncoder(config.encoder, config.dropout)
        self.vector_out = VectorMap(config.embedding_dim, config.embedding_dim)
        self.dropout = Dropout(config.dropout)
        self.repeat_bias = RepeatBias()

    def forward(self, items: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Map item rows ``[B, T]``, oldest first, padded on the right with any row, to user vectors ``[B, T, d_s]``.

        Args:
            items: Rows of ``embeddings``.
            embeddings: Of some items, ``[C, d_s]``; default: those of all items.
        """
        table = self.item_embedding.weight if embeddings is None else embeddings
        vectors = functional.normalize(functional.embedding(items, table), dim=-1)
        states = self.encoder(self.dropout(self.vector_in(vectors)), None)
        users: Tensor = self.vector_out(states)
        return users

    @property
    def vectors(self) -> Tensor:
        """Item vectors at unit length, ``[N, d_s]``. Scores are cosines, so an embedding's length means nothing."""
        return functional.normalize(self.item_embedding.weight, dim=-1)

    def score_factors(self, users: Tensor, embeddings: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the factors of the scores: users ``[..., d_s]``, over the temperature, and items ``[C, d_s]``.

        The items are those of some embeddings ``[C, d_s]``, or all of them.
        """
        items = self.vectors if embeddings is None else functional.normalize(embeddings, dim=-1)
        return self._directions(users), items

    def scores(self, users: Tensor, items: Tensor, lengths: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Return the scores of all items ``[B, N]`` for users, the repeat bias of their histories included.

        Args:
            users: User vectors, ``[B, d_s]``.
            items: Histories, ``[B, T]``.
            lengths: ``[B]``.
            vectors: :attr:`vectors`, if they are at hand.
        """
        all_rows = torch.arange(len(items), device=items.device)
        row, item, value, _ = self.additions(items, lengths[:, None], all_rows, lengths.cpu().numpy())
        scores = functional.linear(self._directions(users), self.vectors if vectors is None else vectors)
        scores.view(-1).index_add_(0, row * scores.shape[1] + item, value)
        return scores

    def additions(self, items: Tensor, prefix: Tensor, real: Tensor, host_prefix: npt.NDArray[np.int64]) -> Additions:
        """Return the repeat bias of histories; arguments are those of :meth:`Additions.of_histories`."""
        value = self.repeat_bias(0, items.shape[1], prefix) / self.config.temperature
        return Additions.of_histories(items, prefix, value, real, host_prefix)

    def _directions(self, users: Tensor) -> Tensor:
        """Return users ``[..., d_s]`` at unit length, over the temperature."""
        return functional.normalize(users, dim=-1) / self.config.temperature


def users_at_once(items: int) -> int:
    """Return the number of users that are scored at once among so many items."""
    return max(1, min(EVALUATION_USERS, SCORES_AT_ONCE // items))


def evaluate_sasrec(model: Sasrec, split: Split) -> Ranks:
    """Rank the targets of a split among all items, under both protocols; leaves the model in evaluation mode."""
    model.eval()

    # Users with histories of similar length are scored together, which saves padding.
    order = np.argsort([len(history) for history in split.histories], kind="stable")
    all_items, seen_excluded = np.empty((2, len(order)), dtype=np.int64)
    size = users_at_once(model.item_embedding.num_embeddings)
    vectors = model.vectors.detach()
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        part = Split([split.histories[row] for row in rows], split.targets[rows], split.users[rows])
        ranks = both_protocols(score_histories(model, part.histories, vectors), part)
        all_items[rows], seen_excluded[rows] = ranks
    return Ranks(all_items, seen_excluded)


@torch.no_grad()
def score_histories(
    model: Sasrec, histories: Sequence[Int32Array], vectors: Tensor | None = None
) -> npt.NDArray[np.float32]:
    """Return the scores of all items after each history, ``[B, N]``: cosine and repeat bias over the temperature.

    Args:
        model: In evaluation mode.
        histories: Item rows of each user, oldest first.
        vectors: The model's :attr:`Sasrec.vectors`; among very many items, to make them takes longer than to score a
            few histories.
    """
    device = model.item_embedding.weight.device
    kept = [history[-model.config.max_history :] for history in histories]
    lengths = torch.tensor([len(history) for history in kept], device=device)
    items = pad_rows(kept).to(device)
    users = model(items)[torch.arange(len(kept)), lengths - 1]
    scores: npt.NDArray[np.float32] = model.scores(users, items, lengths, vectors).float().cpu().numpy()
    return scores


def pad_rows(rows: Sequence[Int32Array]) -> Tensor:
    """Pad the item rows of several sequences on the right to one int64 tensor ``[B, T]``."""
    out = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(out)
