"""Figures of a candidate beside the live version, counted again by item name from the answers of the search itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from model_store.search.fusion import GENERATIVE_ALONE, Fusion
from tests.support.bundles import small_catalogue
from tests.support.random_worlds import random_recommender, random_vectors, small_config
from training.data.dataset import Dataset, Split
from training.evaluation.calibration import calibration_error
from training.evaluation.coverage import K
from training.evaluation.full_ranking import SearchedModel, SearchResults, search_split
from training.evaluation.metrics import gains
from training.retraining import figures as figures_module
from training.retraining.figures import Comparison, Figures, compare_models
from training.retraining.replay import Replay
from training.retraining.served_model import ServedModel

CONFIG = small_config(3, 8).model_copy(update={"beam_width": 12})
FUSED = Fusion(weight=2.0, candidates=4)
REPLAY = Replay(24)
SEED = 3

ITEMS = 44
TRAINED = 36
"""Items that the live version was trained on."""
PLACED = 40
"""Items that it knows; the rest of the data it cannot place."""


def served(item_ids: Sequence[str], seed: int, trained: int, fusion: Fusion = GENERATIVE_ALONE) -> ServedModel:
    """Return a model of random weights whose exported search is not there."""
    catalogue = small_catalogue(items=len(item_ids))
    vectors = random_vectors(np.random.default_rng(seed), CONFIG, len(item_ids))
    return ServedModel(
        config=CONFIG,
        fusion=fusion,
        catalogue=replace(catalogue, item_ids=list(item_ids), vectors=vectors),
        trained=trained,
        recommender=random_recommender(CONFIG, seed),
        neighbours=None,
        ranker=None,
        read=lambda name: pytest.fail(f"{name} is read"),
        size=1_000 + seed,
        collision_rate=seed / 10,
    )


def named(rows: range) -> list[str]:
    return [f"item-{row:02d}" for row in rows]


def dataset(sequences: list[list[int]]) -> Dataset:
    """Return the data of users with these items."""
    rows = [
        (f"u{user:02d}", f"item-{item:02d}", at)
        for user, items in enumerate(sequences)
        for at, item in enumerate(items)
    ]
    return Dataset.from_frame("all", pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row"), {})


def world() -> Dataset:
    """Return users of whom some chose what is new to the live version, and one of whom it knows nothing."""
    rng = np.random.default_rng(0)
    popular = 1 / (1 + np.arange(ITEMS))
    sequences = [rng.choice(ITEMS, 6, p=popular / popular.sum()).tolist() for _ in range(30)]
    sequences += [[1, 2, TRAINED], [3, 4, TRAINED + 1], [5, 0, PLACED], [PLACED + 1, PLACED, 2]]
    sequences += [list(range(start, start + 4)) for start in range(0, ITEMS, 4)]  # every item occurs
    return dataset(sequences)


DATA = world()
CANDIDATE = served(named(range(ITEMS))[::-1], 3, ITEMS, FUSED)
INCUMBENT = served(named(range(PLACED)), 4, TRAINED)
NEW = set(named(range(TRAINED, ITEMS)))


@pytest.fixture(autouse=True)
def _exported_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say what is proved by the tests of the replay, for which a graph is traced: goldens and times."""

    def times(models: Sequence[ServedModel]) -> list[float]:
        return [1.5 if model.recommender is CANDIDATE.recommender else 2.5 for model in models]

    def replay(model: ServedModel) -> Replay:
        assert model.recommender is CANDIDATE.recommender, "only the candidate's goldens decide"
        return REPLAY

    monkeypatch.setattr(figures_module, "time_searches", times)
    monkeypatch.setattr(figures_module, "replay_goldens", replay)


class Searched(NamedTuple):
    """Answers of a model to the users of whom it knows something."""

    results: SearchResults
    judged: list[int]  # their numbers
    items: list[list[str]]  # first answers of each


def search_by_name(model: ServedModel, data: Dataset) -> Searched:
    """Search among the items of the data that a model knows, all of which are named here."""
    rows = {name: row for row, name in enumerate(model.catalogue.item_ids)}
    names = sorted(set(rows) & set(data.item_ids), key=rows.__getitem__)
    test = data.test()
    histories = [[data.item_ids[item] for item in history] for history in test.histories]
    targets = [data.item_ids[item] for item in test.targets]
    known = [[names.index(item) for item in history if item in rows] for history in histories]
    judged = [user for user, history in enumerate(known) if history and targets[user] in rows]
    split = Split(
        [np.array(known[user], dtype=np.int32) for user in judged],
        np.array([names.index(targets[user]) for user in judged], dtype=np.int32),
        np.array(judged),
    )
    codes = model.catalogue.codes[[rows[name] for name in names]]
    vectors = model.catalogue.vectors
    assert vectors is not None
    known_vectors = vectors[[rows[name] for name in names]]
    searched = SearchedModel(model.recommender, codes, CONFIG.beam_width, known_vectors, model.fusion.candidates)
    found = search_split(searched, split, listed=np.arange(len(judged)))
    best = found.top_items(model.fusion, K).tolist()
    return Searched(found, judged, [[names[item] for item in items if item >= 0] for items in best])


def check(figures: Figures, model: ServedModel, search_ms: float, new: set[str], data: Dataset) -> None:
    """Compare figures with those that are counted from the names of answers."""
    found = search_by_name(model, data)
    ranks = found.results.ranks(model.fusion).spread_over(len(data.test().targets), np.array(found.judged))
    answers = [item for items in found.items for item in items]
    assert data.item_ids[0] in answers

    assert figures.metrics == pytest.approx(ranks.summary())
    assert 0 < figures.metrics["ndcg@10"] < 1
    assert figures.gains.tolist() == pytest.approx(gains(ranks.all_items, K).tolist())
    assert figures.coverage == len(set(answers)) / data.n_items

    popularity = dict(zip(data.item_ids, data.popularity().tolist(), strict=True))
    by_popularity = sorted(data.item_ids, key=lambda name: (-popularity[name], data.item_ids.index(name)))
    counts = Counter(answers)
    sizes = [max(round(share * data.n_items), 1) for share in (0.01, 0.1)]
    heads = [sum(counts[name] for name in by_popularity[:size]) / len(answers) for size in sizes]
    assert figures.heads == pytest.approx(heads)
    assert figures.new_exposure == pytest.approx(sum(counts[name] for name in new) / len(answers))

    beams = found.results.log_prob[0, :, :K].astype(np.float64)
    hits = np.asarray(found.results.is_target[0, :, :K].any(axis=1), dtype=np.bool_)
    assert figures.calibration == pytest.approx(calibration_error(np.exp(beams).sum(axis=1), hits))
    assert (figures.collision_rate, figures.size) == (model.collision_rate, model.size)
    assert figures.search_ms == search_ms


@pytest.fixture
def compared(_exported_search: None) -> Comparison:
    return compare_models(CANDIDATE, INCUMBENT, DATA, SEED)


def test_both_models_are_measured_on_the_same_users(compared: Comparison) -> None:
    check(compared.candidate, CANDIDATE, 1.5, NEW, DATA)
    assert compared.incumbent
    check(compared.incumbent, INCUMBENT, 2.5, NEW, DATA)
    assert compared.goldens == REPLAY
    assert compared.candidate.new_exposure > compared.incumbent.new_exposure > 0

    targets = [DATA.item_ids[item] for item in DATA.test().targets]
    assert {f"item-{TRAINED}", f"item-{PLACED}"} <= set(targets)
    assert compared.new_targets == sum(name in NEW for name in targets)


def test_codes_move_only_of_items_that_both_were_trained_on() -> None:
    """The candidate numbers its items from the other end. Three codes go round, and those of all new items."""
    names = named(range(PLACED))
    codes = dict(zip(names, INCUMBENT.catalogue.codes, strict=True))
    moved = codes.copy()
    for ring in (names[:3], names[TRAINED:]):
        moved |= {name: codes[next_one] for name, next_one in zip(ring, [*ring[1:], ring[0]], strict=True)}

    order = names[::-1]
    candidate = served(order, 3, PLACED)
    catalogue = replace(candidate.catalogue, codes=np.stack([moved[name] for name in order]))
    candidate = replace(candidate, catalogue=catalogue, recommender=CANDIDATE.recommender)
    assert compare_models(candidate, INCUMBENT, DATA, SEED).codes_moved == 3 / TRAINED


def test_the_first_model_is_measured_alone() -> None:
    found = compare_models(CANDIDATE, None, DATA, SEED)
    check(found.candidate, CANDIDATE, 1.5, set(), DATA)
    assert found.candidate.new_exposure == 0
    assert (found.incumbent, found.goldens) == (None, REPLAY)
    assert (found.codes_moved, found.new_targets) == (None, 0)


def test_a_live_version_of_other_items_answers_nobody() -> None:
    stranger = served([f"other-{row}" for row in range(PLACED)], 4, PLACED)
    found = compare_models(CANDIDATE, stranger, DATA, SEED)
    live = found.incumbent
    assert live
    assert set(live.metrics.values()) == {0.0}
    assert not live.gains.any()
    assert len(live.gains) == DATA.users
    assert (live.coverage, live.heads, live.new_exposure, live.calibration) == (0, (0, 0), 0, None)
    assert (found.codes_moved, found.new_targets) == (None, DATA.users)
    assert found.candidate.new_exposure == 1


def test_places_without_an_answer_count_for_no_item() -> None:
    """Fewer items than answers are asked for."""
    few = dataset([[start, (start + step) % 6, (start + 2 * step) % 6] for start in range(6) for step in (1, 2, 5)])
    found = compare_models(CANDIDATE, INCUMBENT, few, SEED)
    check(found.candidate, CANDIDATE, 1.5, set(), few)
    assert found.incumbent
    check(found.incumbent, INCUMBENT, 2.5, set(), few)
