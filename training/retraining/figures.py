"""Figures of a candidate and of the live version on the same users and items, which the gate judges.

Both rank the newest interaction of every user among the trained items of the data, as they are served. Items that the
live version was not trained on are placed by their content, as the service does. Items that it cannot place are removed
from its histories. A target that it cannot place counts as missed, and so does the target of a user whose history
becomes empty.

Shapes: N items of the data, n test users, m of them whose answers are counted, K answers of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model_store.search.fusion import scores_all_items
from training.data.dataset import Dataset, Split
from training.evaluation.answers import Answers
from training.evaluation.coverage import K, head_share, measure_coverage, sample_users
from training.evaluation.full_ranking import SearchedModel, search_split
from training.evaluation.metrics import gains
from training.retraining.replay import Replay, replay_goldens, time_searches
from training.retraining.served_model import ServedModel

HEADS = (0.01, 0.1)
"""Shares of the most popular items whose part in the answers is measured."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one model is worth, and what it costs."""

    metrics: dict[str, float]  # test metrics by name
    gains: npt.NDArray[np.float64]  # [n], gain of each test user, whose mean is NDCG@10
    coverage: float  # share of the items of the data that are among the answers
    heads: tuple[float, ...]  # share of answers that the most popular items take, for each of HEADS
    new_exposure: float  # share of answers that are items new to the live version
    calibration: float | None  # expected calibration error of the search; None if nobody could be answered
    collision_rate: float | None
    size: int  # bytes
    search_ms: float  # median time of one search


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A candidate beside the live version, if there is one."""

    candidate: Figures
    incumbent: Figures | None
    goldens: Replay  # of the candidate
    codes_moved: float | None = None  # share of items known to both that have another semantic ID
    new_targets: int = 0  # test users whose target is new to the live version


def _answers(model: ServedModel, data: Dataset, row_of: npt.NDArray[np.integer], seed: int) -> Answers:
    """Return a model's answers to the test users of a data set, among the items of it that the model knows.

    Args:
        model: The model.
        data: The data, whose rows the answers name.
        row_of: Rows of its items in the model's catalogue, ``[N]``; -1 where the model lacks the item.
        seed: Draws the users whose answers are counted.
    """
    if model.answers is not None:
        return model.answers

    ranked = np.unique(row_of[row_of >= 0])
    place = np.where(row_of >= 0, np.searchsorted(ranked, row_of), -1)

    split = data.test()
    histories = [known[known >= 0] for known in (place[history] for history in split.histories)]
    targets = place[split.targets]
    is_judged = [len(history) and target >= 0 for history, target in zip(histories, targets, strict=True)]
    judged = np.flatnonzero(is_judged)
    part = Split([histories[user].astype(np.int32) for user in judged], targets[judged].astype(np.int32), judged)

    fusion = model.fusion
    catalogue = model.catalogue
    sample = sample_users(len(targets), seed)
    searched = SearchedModel(
        model.recommender,
        catalogue.codes[ranked],
        model.config.beam_width,
        None if catalogue.vectors is None else catalogue.vectors[ranked],
        fusion.candidates,
        None if model.neighbours is None else model.neighbours.for_rows(ranked),
        fusion.neighbours,
        None if model.ranker is None else model.ranker.for_rows(ranked),
        scores_all_items(len(catalogue)),
        catalogue.resemblances.for_rows(ranked),
    )
    results = search_split(searched, part, listed=np.flatnonzero(np.isin(judged, sample)))
    found = Answers.of(results, fusion)

    item_of = np.empty(len(ranked), dtype=np.int64)  # place -> row of the data
    item_of[place[place >= 0]] = np.flatnonzero(place >= 0)
    items = np.where(found.items >= 0, item_of[found.items], -1)  # [m, K]
    return replace(found, ranks=found.ranks.spread_over(len(targets), judged), items=items)


def compare_models(candidate: ServedModel, incumbent: ServedModel | None, data: Dataset, seed: int) -> Comparison:
    """Measure both models on the test users of a data set; the seed draws those whose answers are counted."""
    goldens = replay_goldens(candidate)
    times = time_searches([candidate] if incumbent is None else [candidate, incumbent])
    row_of = candidate.catalogue.row_of.find(data.item_ids)
    new = _answers(candidate, data, row_of, seed)
    if incumbent is None:
        nothing = np.zeros(data.n_items, dtype=np.bool_)
        return Comparison(candidate=_figures(candidate, new, data, nothing, times[0]), incumbent=None, goldens=goldens)

    old_row_of = incumbent.catalogue.row_of.find(data.item_ids)
    is_new = (old_row_of < 0) | (old_row_of >= incumbent.trained)
    old = _answers(incumbent, data, old_row_of, seed)
    return Comparison(
        candidate=_figures(candidate, new, data, is_new, times[0]),
        incumbent=_figures(incumbent, old, data, is_new, times[1]),
        goldens=goldens,
        codes_moved=codes_moved(candidate, incumbent, row_of, np.where(is_new, -1, old_row_of)),
        new_targets=int(is_new[data.test().targets].sum()),
    )


def model_metrics(model: ServedModel, data: Dataset) -> dict[str, float]:
    """Return the test metrics of a model's answers on a data set that may have more items and users."""
    return _answers(model, data, model.catalogue.row_of.find(data.item_ids), seed=0).ranks.summary()


def codes_moved(
    model: ServedModel, other: ServedModel, rows: npt.NDArray[np.integer], other_rows: npt.NDArray[np.integer]
) -> float | None:
    """Return the share of items whose semantic IDs differ; ``None`` if none is known to both.

    Args:
        model: A model.
        other: Another one, whose semantic IDs may have another length.
        rows: Rows of the same items in the first catalogue, ``[N]``; -1 where it lacks them.
        other_rows: The same in the second.
    """
    both = (rows >= 0) & (other_rows >= 0)
    if not both.any():
        return None
    codes = model.catalogue.codes[rows[both]]
    others = other.catalogue.codes[other_rows[both]]
    if codes.shape[1] != others.shape[1]:
        return 1.0
    return float((codes != others).any(axis=1).mean())


def _figures(
    model: ServedModel, answers: Answers, data: Dataset, is_new: npt.NDArray[np.bool_], search_ms: float
) -> Figures:
    popularity = data.popularity()
    shown = answers.items[answers.items >= 0]
    return Figures(
        metrics=answers.ranks.summary(),
        gains=gains(answers.ranks.all_items, K),
        coverage=measure_coverage(answers.items, data.n_items).catalogue_share,
        heads=tuple(head_share(answers.items, popularity, share) for share in HEADS),
        new_exposure=float(is_new[shown].mean()) if len(shown) else 0.0,
        calibration=answers.calibration,
        collision_rate=model.collision_rate,
        size=model.size,
        search_ms=search_ms,
    )
