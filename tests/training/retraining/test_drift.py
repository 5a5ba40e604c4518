"""Drift in a small world: users with tastes, a model, and new interactions that are like the old ones, or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from model_store.catalogue.code_names import CodeNames
from model_store.search.fusion import GENERATIVE_ALONE
from tests.support.bundles import small_catalogue, small_names
from tests.support.random_worlds import random_recommender, random_vectors, small_config
from training.data.dataset import Dataset
from training.retraining.drift import Drift, Shift, measure_drift, popularity_tenths
from training.retraining.served_model import ServedModel

CONFIG = small_config(3, 8).model_copy(update={"beam_width": 10})
ITEMS = 40
SEEDS = range(6)


@pytest.fixture(scope="module")
def model() -> ServedModel:
    catalogue = small_catalogue(items=ITEMS)
    vectors = random_vectors(np.random.default_rng(1), CONFIG, ITEMS)
    return ServedModel(
        config=CONFIG,
        fusion=GENERATIVE_ALONE,
        catalogue=replace(catalogue, vectors=vectors),
        trained=ITEMS,
        recommender=random_recommender(CONFIG, 3),
        neighbours=None,
        ranker=None,
        read=lambda _: b"",
        size=1,
        collision_rate=None,
    )


def world(
    seed: int, new_items: np.ndarray | None = None, share: float = 1 / 3, users: int = 400
) -> tuple[Dataset, int]:
    """Return a data set of users with tastes, and how many of its interactions are old.

    New interactions come from half of the users. If items are given, this share of them goes to these.
    """
    rng = np.random.default_rng(seed)
    everyone = rng.permutation(1 / (np.arange(ITEMS) + 3))
    old = new = 0
    rows = []
    for user in range(users):
        taste = everyone * rng.gamma(0.5, size=ITEMS)
        before = int(rng.integers(3, 20))
        since = int(rng.integers(2, 7)) if user % 2 else 0
        items = rng.choice(ITEMS, before + since, p=taste / taste.sum())
        if new_items is not None:
            goes = (np.arange(len(items)) >= before) & (rng.random(len(items)) < share)
            items = np.where(goes, rng.choice(new_items, len(items)), items)
        times = [*range(before), *range(1_000, 1_000 + since)]
        rows += [(f"u{user}", f"item-{item}", 1 + at) for item, at in zip(items.tolist(), times, strict=True)]
        old += before
        new += since
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    data = Dataset.from_frame("world", frame, {})
    assert data.interactions == old + new
    return data, old


def measured(model: ServedModel, seed: int, new_items: np.ndarray | None = None, share: float = 1 / 3) -> Drift:
    data, old = world(seed, new_items, share)
    found = measure_drift(data, model, old, small_names(model.catalogue), seed)
    assert found is not None
    assert found.interactions == data.interactions - old
    assert set(found.shifts) == {"codes", "items", "scores"}
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_more_of_the_same_is_no_drift(model: ServedModel, seed: int) -> None:
    """Each comparison raises a false alarm at most once in a thousand times, so all three in less than 0.3 %."""
    found = measured(model, seed)
    assert not any(shift.is_found for shift in found.shifts.values()), found
    assert found.warning("v1") == ""


@pytest.mark.parametrize("seed", SEEDS)
def test_users_who_turn_to_one_branch_of_the_code_tree_are_found(model: ServedModel, seed: int) -> None:
    codes = model.catalogue.codes[:, 0]
    used, counts = np.unique(codes, return_counts=True)
    rare = int(used[np.argmin(counts)])
    found = measured(model, seed, np.flatnonzero(codes == rare))
    assert found.shifts["codes"].is_found
    assert found.shifts["codes"].note.startswith(f"first code {rare}")
    assert "codes (PSI " in found.warning("v1")


@pytest.mark.parametrize("seed", SEEDS)
def test_items_that_nobody_had_before_are_found(model: ServedModel, seed: int) -> None:
    found = measured(model, seed, np.arange(900, 910))  # the model does not know them either
    assert found.shifts["items"].is_found
    assert found.shifts["items"].note.startswith("items not seen before went from ")


def test_histories_whose_answers_score_otherwise_are_found(model: ServedModel) -> None:
    """Most new histories end with one item, so that the scores of their first answers lie close together."""
    names = small_names(model.catalogue)
    shifts = []
    for new_items in (np.array([7]), None):
        data, old = world(0, new_items, share=0.9, users=1_500)
        found = measure_drift(data, model, old, names, 0)
        assert found is not None
        shifts.append(found.shifts["scores"])
    assert [shift.is_found for shift in shifts] == [True, False]
    assert "of scores, lowest first went from" in shifts[0].note


def test_too_little_that_is_new_and_unknown_times_are_not_measured(model: ServedModel) -> None:
    names = CodeNames.of(np.empty((0, 1), np.int16), [])
    data, _ = world(0)
    assert measure_drift(data, model, data.interactions - 99, names, 0) is None
    assert measure_drift(data, model, data.interactions, names, 0) is None
    assert measure_drift(data, model, 0, names, 0) is None, "an older release does not say on how many it was trained"
    timeless = replace(data, timestamps=np.zeros_like(data.timestamps))
    assert measure_drift(timeless, model, data.interactions - 500, names, 0) is None


def test_tenths_of_items_by_popularity() -> None:
    counts = np.array([*range(20, 0, -1), 0, 0])
    tenths = popularity_tenths(counts)
    assert tenths.tolist() == [*np.repeat(np.arange(1, 11), 2), 0, 0]
    assert popularity_tenths(np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]


def test_drift_is_plain_values() -> None:
    drift = Drift(200, {"items": Shift(0.3, 0.1, True, "new")})
    assert drift.as_dict() == {
        "interactions": 200,
        "shifts": {"items": {"psi": 0.3, "limit": 0.1, "is_found": True, "note": "new"}},
    }
