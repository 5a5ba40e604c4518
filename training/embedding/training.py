"""Training of SASRec: its loss over all items or sampled ones, and epochs until validation stops rising."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.errors import DataError
from training.data.dataset import Dataset, Split
from training.embedding.sasrec import Sasrec, SasrecConfig, evaluate_sasrec
from training.embedding.windows import Windows
from training.evaluation.metrics import summary
from training.loop import distributed
from training.loop.batches import Batch, Float32Array, Int64Array, TrainingRows, collate, history_items
from training.loop.checkpoint import BestWeights, Resumable, ResumableLoop, Weights
from training.loop.compute import FP32, ComputeConfig
from training.loop.item_softmax import Candidates, Proposal, full_softmax_loss, sampled_softmax_loss
from training.loop.learning_curve import LearningCurve
from training.loop.optimiser import Optimiser, cosine, descend
from training.loop.progress import Progress
from training.loop.row_optimiser import RowOptimiser

Int32Array = npt.NDArray[np.int32]


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


class SampledItems(NamedTuple):
    """The items that a batch reads or samples; in them alone its loss is computed."""

    candidates: Candidates  # with the items of histories, which stand for no others
    embeddings: Tensor  # [C, d_s], of the candidates


def sasrec_loss(
    model: Sasrec, batch: Batch, sampled: SampledItems | None = None, compute: ComputeConfig = FP32
) -> Tensor:
    """Return the mean cross-entropy over items at all real positions of a batch; of several processes, each its share.

    Each position's term is multiplied by the weight of its target, if the batch has weights.

    Args:
        model: In training or evaluation mode.
        batch: Windows; position t of a row reads t + 1 items, and its target is the next one.
        sampled: Items that the loss is estimated from; None: all items.
        compute: Precision and compilation of the network.
    """
    if sampled is None:
        users, items = model.score_factors(batch.select_targets(compute.run(model, batch.history)))
        additions = model.additions(batch.history, batch.prefix, batch.real, batch.host.prefix)
        return full_softmax_loss(
            users, items, batch.items, batch.all_targets, additions=additions, target_weights=batch.weights
        )

    # From here on items are numbered among the candidates, which ascend. Padding becomes any one of them.
    rows, log_weight = sampled.candidates
    history = torch.searchsorted(rows, batch.history)
    targets = torch.searchsorted(rows, batch.items)
    candidates = Candidates(torch.arange(len(rows), device=rows.device), log_weight)

    states = compute.run(model, history, sampled.embeddings)
    users, items = model.score_factors(batch.select_targets(states), sampled.embeddings)
    additions = model.additions(history, batch.prefix, batch.real, batch.host.prefix)
    return sampled_softmax_loss(users, items, targets, candidates, batch.all_targets, additions, batch.weights)


class SasrecSteps:
    """Steps of training. Where items are sampled, the cost of a step does not depend on the size of the catalogue.

    Then a step reads and changes only the items of its histories, targets and draws; all others wait, with their
    moments (:class:`training.loop.row_optimiser.RowOptimiser`).

    Args:
        model: In training mode when steps are taken.
        windows: What it is trained on.
        steps: Number of steps of the whole training, for the schedule.
        seed: Seed of the draws.
        compute: Precision and compilation of the network.
    """

    def __init__(self, model: Sasrec, windows: Windows, steps: int, seed: int, compute: ComputeConfig = FP32) -> None:
        config = model.config
        table = model.item_embedding.weight
        schedule = cosine(steps, config.warmup)
        is_sampled = config.is_sampled(len(table))
        rest = [each for each in model.parameters() if each is not table or not is_sampled]
        # On a GPU it steps in one kernel.
        adam = torch.optim.AdamW(rest, config.learning_rate, weight_decay=config.weight_decay, fused=table.is_cuda)
        self._model = model
        self._seed = seed
        self._compute = compute
        self._rest = Optimiser(adam, schedule)
        self._items: RowOptimiser | None = None
        if is_sampled:
            self._items = RowOptimiser(table, config.learning_rate, config.weight_decay, schedule)
            self._proposal = Proposal(windows.targets, len(table), config.negatives)

    @property
    def parts(self) -> dict[str, Resumable]:
        """What the steps change besides the model."""
        return {"optimiser": self._rest} | ({"items": self._items} if self._items else {})

    def take(self, rows: TrainingRows, chosen: Int64Array, epoch: int, step: int) -> Tensor:
        """Take a step on a joint batch of rows; return this process's share of the loss.

        The place in training seeds the draws, so that they are the same in all processes, and in a resumed run.
        """
        batch = collate(rows, chosen)
        if self._items is None:
            loss = sasrec_loss(self._model, batch, None, self._compute)
            descend(loss, self._rest)
            return loss

        rng = np.random.default_rng((self._seed, epoch, step))
        found = self._proposal.candidates(batch.host.items, rng, history_items(rows, chosen))
        candidates = found.to(batch.real.device)
        sampled = SampledItems(candidates, self._items.take(candidates.items))
        loss = sasrec_loss(self._model, batch, sampled, self._compute)
        descend(loss, self._rest, self._items)
        return loss


def train_sasrec(
    dataset: Dataset,
    config: SasrecConfig,
    seed: int,
    progress: Progress,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    compute: ComputeConfig = FP32,
    start: Mapping[str, Tensor] | None = None,
) -> SasrecResult:
    """Train until validation NDCG@10 stops rising, and return the best epoch.

    On the CPU the same seed gives the same result. The global random state is left as it was. The stage is saved in the
    file ``checkpoint`` as it runs, and resumed from it. ``compute`` sets precision and compilation of the network.
    Weights to ``start`` from are kept if no epoch is better.

    Raises:
        DataError: No sequence is long enough to train on, or there is no user to validate with.
        CheckpointError: The checkpoint is damaged.
    """
    split = dataset.validation()
    is_long = dataset.training_lengths > 1
    sequences = list(compress(dataset.training_sequences(), is_long))
    weights = dataset.training_weights()
    weights = None if weights is None else list(compress(weights, is_long))
    if not sequences or not len(split.targets):
        raise DataError(
            "training needs at least one user with four interactions", "bring more data, or lower data.min_item"
        )

    target = torch.device(device)
    with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []):
        torch.manual_seed(seed)
        model = compute.prepare(Sasrec(config, dataset.n_items).to(target))
        distributed.seed_dropout(seed)
        if start is not None:
            model.load_state_dict(start)
        return _fit(model, sequences, weights, split, seed, progress, checkpoint, compute, is_begun=start is not None)


def _fit(
    model: Sasrec,
    sequences: Sequence[Int32Array],
    weights: Sequence[Float32Array] | None,
    split: Split,
    seed: int,
    progress: Progress,
    checkpoint: Path | None,
    compute: ComputeConfig,
    is_begun: bool,
) -> SasrecResult:
    started = time.monotonic()
    config = model.config
    device = model.item_embedding.weight.device
    rng = np.random.default_rng(seed)

    # Cuts between windows are drawn anew each epoch, so their number differs a little from epoch to epoch.
    windows = Windows(sequences, config.max_history, device, weights)
    steps = config.epochs * len(windows.draw_epoch(config.batch_tokens, np.random.default_rng(seed))[1])
    training = SasrecSteps(model, windows, steps, seed, compute)
    best = BestWeights(model)
    curve = LearningCurve()

    parts: dict[str, Resumable] = {"model": Weights(model), "best": best, "curve": curve, **training.parts}
    loop = ResumableLoop(checkpoint, rng, parts, device)
    if is_begun and not loop.resumed:
        _offer(model, split, best)
    with progress.track("SASRec", config.epochs, loop.epoch) as bar:
        for epoch in loop.epochs(config.epochs):
            if best.misses >= config.patience:
                break
            model.train()
            rows, groups = windows.draw_epoch(config.batch_tokens, rng)
            for chosen in loop.batches(groups):
                loop.add({"loss": training.take(rows, chosen, epoch, loop.step)})

            metrics = _offer(model, split, best)
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


def _offer(model: Sasrec, split: Split, best: BestWeights) -> dict[str, float]:
    """Offer the present weights as the best ones, by their validation NDCG@10; return all metrics."""
    metrics = distributed.compute_on_first(lambda: summary(evaluate_sasrec(model, split).all_items))
    best.offer(metrics["ndcg@10"], metrics)
    return metrics
