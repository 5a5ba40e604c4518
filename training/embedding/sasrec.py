"""SASRec: a causal transformer over a user's items, whose item embeddings the tokenizer reads.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, with three changes: full cross-entropy over all
items instead of one sampled negative, which is what makes it a strong baseline (Klenitskiy and Vasilev, RecSys 2023);
cosines over a temperature instead of products, so that popular items cannot win by length; and the recommender's own
encoder with relative positions, so that a recommender of the same shape starts from what was learned here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from model_store.config import Section
from model_store.errors import DataError
from model_store.network.encoder import EncoderShape, HistoryEncoder, VectorMap
from model_store.network.layers import Dropout
from model_store.network.repeat_bias import RepeatBias
from training.data.dataset import Dataset, Split
from training.embedding.windows import Windows
from training.evaluation.metrics import Ranks, both_protocols, summary
from training.loop import distributed
from training.loop.batches import Batch, collate
from training.loop.checkpoint import BestWeights, Resumable, ResumableLoop, Weights
from training.loop.compute import FP32, ComputeConfig
from training.loop.item_softmax import (
    SAMPLED_ABOVE,
    Additions,
    Candidates,
    Proposal,
    full_softmax_loss,
    sampled_softmax_loss,
)
from training.loop.learning_curve import LearningCurve
from training.loop.optimiser import Optimiser, cosine, descend
from training.loop.progress import Progress

Int32Array = npt.NDArray[np.int32]

EVALUATION_USERS = 256
"""Number of users scored at once; the scores take this times the number of items in memory."""


class SasrecConfig(Section):
    """Shape and training of SASRec."""

    embedding_dim: int = Field(256, ge=2, le=4096, description="d_s, width of item embeddings and of the model")
    layers: int = Field(2, ge=1, le=16, description="transformer blocks")
    heads: int = Field(4, ge=1, le=64, description="attention heads")
    head_dim: int = Field(32, ge=2, le=256, description="width of one head")
    d_ff: int = Field(512, ge=2, le=8192, description="width of the feed-forward block")
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
    negatives: int = Field(4096, ge=1, description="sampled softmax: items drawn for a batch, besides its own targets")

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

    def forward(self, items: Tensor) -> Tensor:
        """Map item rows ``[B, T]``, oldest first, padded on the right with any row, to user vectors ``[B, T, d_s]``."""
        vectors = functional.normalize(self.item_embedding(items), dim=-1)
        states = self.encoder(self.dropout(self.vector_in(vectors)), None)
        users: Tensor = self.vector_out(states)
        return users

    @property
    def vectors(self) -> Tensor:
        """Item vectors at unit length, ``[N, d_s]``. Scores are cosines, so an embedding's length means nothing."""
        return functional.normalize(self.item_embedding.weight, dim=-1)

    def score_factors(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the scores: users ``[..., d_s]``, over the temperature, and items ``[N, d_s]``."""
        return functional.normalize(users, dim=-1) / self.config.temperature, self.vectors

    def scores(self, users: Tensor, items: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores of all items ``[B, N]`` for users, the repeat bias of their histories included.

        Args:
            users: User vectors, ``[B, d_s]``.
            items: Histories, ``[B, T]``.
            lengths: ``[B]``.
        """
        all_rows = torch.arange(len(items), device=items.device)
        row, item, value, _ = self.additions(items, lengths[:, None], all_rows, lengths.cpu().numpy())
        scores = functional.linear(*self.score_factors(users))
        scores.view(-1).index_add_(0, row * scores.shape[1] + item, value)
        return scores

    def additions(self, items: Tensor, prefix: Tensor, real: Tensor, host_prefix: npt.NDArray[np.int64]) -> Additions:
        """Return the repeat bias of histories; arguments are those of :meth:`Additions.of_histories`."""
        value = self.repeat_bias(0, items.shape[1], prefix) / self.config.temperature
        return Additions.of_histories(items, prefix, value, real, host_prefix)


@dataclass(frozen=True)
class SasrecResult:
    """Trained SASRec with the weights of its best epoch."""

    embeddings: npt.NDArray[np.float32]  # [items, d_s]
    model: Sasrec
    valid: dict[str, float]  # metrics of the best epoch, history items allowed
    epochs: int  # number of epochs run
    best_epoch: int  # counted from 1
    seconds: float
    history: list[dict[str, float]]  # "loss" and "valid_ndcg@10" of every epoch


def sasrec_loss(
    model: Sasrec, batch: Batch, candidates: Candidates | None = None, compute: ComputeConfig = FP32
) -> Tensor:
    """Return the mean cross-entropy over items at all real positions of a batch; of several processes, each its share.

    Args:
        model: In training or evaluation mode.
        batch: Windows; position t of a row reads t + 1 items, and its target is the next one.
        candidates: Sampled items that the loss is estimated from; None: all items.
        compute: Precision and compilation of the network.
    """
    users, items = model.score_factors(batch.select_targets(compute.run(model, batch.history)))
    additions = model.additions(batch.history, batch.prefix, batch.real, batch.host.prefix)
    if candidates is None:
        return full_softmax_loss(users, items, batch.items, batch.all_targets, additions=additions)
    return sampled_softmax_loss(users, items, batch.items, candidates, batch.all_targets, additions)


def evaluate_sasrec(model: Sasrec, split: Split) -> Ranks:
    """Rank the targets of a split among all items, under both protocols; leaves the model in evaluation mode."""
    model.eval()

    # Users with histories of similar length are scored together, which saves padding.
    order = np.argsort([len(history) for history in split.histories], kind="stable")
    all_items, seen_excluded = np.empty((2, len(order)), dtype=np.int64)
    for start in range(0, len(order), EVALUATION_USERS):
        rows = order[start : start + EVALUATION_USERS]
        part = Split([split.histories[row] for row in rows], split.targets[rows], split.users[rows])
        ranks = both_protocols(score_histories(model, part.histories), part)
        all_items[rows], seen_excluded[rows] = ranks
    return Ranks(all_items, seen_excluded)


def train_sasrec(
    dataset: Dataset,
    config: SasrecConfig,
    seed: int,
    progress: Progress,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    compute: ComputeConfig = FP32,
) -> SasrecResult:
    """Train until validation NDCG@10 stops rising, and return the best epoch.

    On the CPU the same seed gives the same result. The global random state is left as it was. The stage is saved in the
    file ``checkpoint`` as it runs, and resumed from it. ``compute`` sets precision and compilation of the network.

    Raises:
        DataError: No sequence is long enough to train on, or there is no user to validate with.
        CheckpointError: The checkpoint is damaged.
    """
    split = dataset.validation()
    sequences = [sequence for sequence in dataset.training_sequences() if len(sequence) > 1]
    if not sequences or not len(split.targets):
        raise DataError(
            "training needs at least one user with four interactions", "bring more data, or lower data.min_item"
        )

    target = torch.device(device)
    with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []):
        torch.manual_seed(seed)
        model = compute.prepare(Sasrec(config, dataset.n_items).to(target))
        distributed.seed_dropout(seed)
        return _fit(model, sequences, split, seed, progress, checkpoint, compute)


def _fit(
    model: Sasrec,
    sequences: Sequence[Int32Array],
    split: Split,
    seed: int,
    progress: Progress,
    checkpoint: Path | None,
    compute: ComputeConfig,
) -> SasrecResult:
    started = time.monotonic()
    config = model.config
    device = model.item_embedding.weight.device
    rng = np.random.default_rng(seed)

    # Cuts between windows are drawn anew each epoch, so their number differs a little from epoch to epoch.
    windows = Windows(sequences, config.max_history, device)
    steps = config.epochs * len(windows.draw_epoch(config.batch_tokens, np.random.default_rng(seed))[1])
    optimiser = Optimiser(sasrec_optimizer(model), cosine(steps, config.warmup))
    best = BestWeights(model)
    proposal = _create_proposal(config, windows, model.item_embedding.num_embeddings)
    curve = LearningCurve()

    parts: dict[str, Resumable] = {"model": Weights(model), "optimiser": optimiser, "best": best, "curve": curve}
    loop = ResumableLoop(checkpoint, rng, parts, device)
    with progress.track("SASRec", config.epochs, loop.epoch) as bar:
        for epoch in loop.epochs(config.epochs):
            if best.misses >= config.patience:
                break
            model.train()
            rows, groups = windows.draw_epoch(config.batch_tokens, rng)
            for chosen in loop.batches(groups):
                batch = collate(rows, chosen)
                candidates = sasrec_candidates(proposal, batch, (seed, epoch, loop.step))
                loss = sasrec_loss(model, batch, candidates, compute)
                descend(loss, optimiser)
                loop.add({"loss": loss})

            metrics = distributed.compute_on_first(lambda: summary(evaluate_sasrec(model, split).all_items))
            best.offer(metrics["ndcg@10"], metrics)
            curve.add(loop.means() | {"valid_ndcg@10": metrics["ndcg@10"]}, bar)
            bar.advance(1, note=f"NDCG@10 {best.score:.4f}")

    best.load_best()
    model.eval()
    return SasrecResult(
        embeddings=model.vectors.detach().cpu().numpy(),
        model=model,
        valid=best.metrics,
        epochs=loop.epoch,
        best_epoch=loop.epoch - best.misses,
        seconds=time.monotonic() - started,
        history=curve.epochs,
    )


def sasrec_optimizer(model: Sasrec) -> torch.optim.AdamW:
    """Create an AdamW over all weights; on a GPU it steps in one kernel."""
    config = model.config
    fused = model.item_embedding.weight.is_cuda
    return torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=fused)


def _create_proposal(config: SasrecConfig, windows: Windows, n_items: int) -> Proposal | None:
    return Proposal(windows.targets, n_items, config.negatives) if config.is_sampled(n_items) else None


def sasrec_candidates(proposal: Proposal | None, batch: Batch, position: tuple[int, int, int]) -> Candidates | None:
    """Draw the items that the loss of a batch is estimated from; None without a proposal.

    The position in training (seed, epoch, step) seeds the draw, so that it is the same in all processes, and in a
    resumed run.
    """
    if proposal is None:
        return None
    return proposal.candidates(batch.host.items, np.random.default_rng(position)).to(batch.real.device)


@torch.no_grad()
def score_histories(model: Sasrec, histories: Sequence[Int32Array]) -> npt.NDArray[np.float32]:
    """Return the scores of all items after each history, ``[B, N]``: cosine and repeat bias over the temperature."""
    device = model.item_embedding.weight.device
    kept = [history[-model.config.max_history :] for history in histories]
    lengths = torch.tensor([len(history) for history in kept], device=device)
    items = pad_rows(kept).to(device)
    users = model(items)[torch.arange(len(kept)), lengths - 1]
    scores: npt.NDArray[np.float32] = model.scores(users, items, lengths).float().cpu().numpy()
    return scores


def pad_rows(rows: Sequence[Int32Array]) -> Tensor:
    """Pad the item rows of several sequences on the right to one int64 tensor ``[B, T]``."""
    out = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(out)
