"""Types of interactions, from a shop's names to the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.events.event import EVENT_TYPES
from training.data.dataset import Dataset
from training.data.event_types import event_numbers, strongest_types
from training.data.prepare import PrepareOptions, build_dataset
from training.data.raw import RawData
from training.data.storage import load_dataset, save_dataset
from training.retraining.merged_data import merge_data

ROWS = [("u", "a", 1, "view"), ("u", "b", 2, "Purchase"), ("v", "a", 3, "add to cart"), ("v", "rare", 4, "transaction")]


def frame_of(rows: list[tuple[str, str, int, str]]) -> pl.DataFrame:
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "event": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def prepared(rows: list[tuple[str, str, int, str]] = ROWS, min_item: int = 1) -> Dataset:
    raw = RawData("shop", frame_of(rows), {})
    return build_dataset(raw, PrepareOptions(min_user=1, min_item=min_item))


def test_names_of_shops_are_known_and_others_are_unknown() -> None:
    names = ["view", "VIEW", "Add to cart", "addtocart", "transaction", "rating", "swipe", None]
    frame = pl.DataFrame({"event": names})
    expected = [0, 0, 2, 2, 3, 4, -1, -1]
    assert event_numbers(frame).tolist() == expected
    assert event_numbers(frame.with_columns(pl.col("event").cast(pl.Categorical))).tolist() == expected
    assert event_numbers(frame, "kind").tolist() == [-1] * len(names)


def test_types_follow_their_interactions_through_sorting_filters_and_storage(tmp_path: Path) -> None:
    interleaved = [ROWS[0], ROWS[2], ROWS[3], ("u", "b", 5, "Purchase")]
    dataset = prepared(interleaved)
    assert [dataset.item_ids[item] for item in dataset.items] == ["a", "b", "a", "rare"]
    assert dataset.event_types.tolist() == [0, 3, 2, 3]
    filtered = prepared(min_item=2)
    assert filtered.event_types.tolist() == [0, 2]
    assert filtered.set_aside["event"].to_list() == [3, 3]
    save_dataset(filtered, tmp_path / "data")
    loaded = load_dataset(tmp_path / "data")
    assert loaded.event_types.tolist() == [0, 2]
    assert loaded.set_aside["event"].to_list() == [3, 3]


def test_the_fingerprint_knows_types_but_not_that_there_are_none() -> None:
    other = [(*row[:3], "view") for row in ROWS]
    unknown = [(*row[:3], "swipe") for row in ROWS]
    without = build_dataset(RawData("shop", frame_of(ROWS).drop("event"), {}), PrepareOptions(min_user=1, min_item=1))
    fingerprints = {prepared().fingerprint, prepared(other).fingerprint, prepared(unknown).fingerprint}
    assert len(fingerprints) == 3
    assert without.fingerprint == prepared(unknown).fingerprint


def test_events_bring_their_types_into_the_next_training() -> None:
    events = pl.DataFrame(
        {"user_id": ["u", "w"], "item_id": ["b", "a"], "timestamp": [9, 10], "type": ["cart", "view"]}
    )
    merged = merge_data(prepared(), events, {}).dataset
    assert merged.event_types.tolist() == [0, 3, 2, 2, 3, 0]


@pytest.mark.parametrize(
    ("kinds", "strongest"),
    [
        (["view", "purchase"], "purchase"),
        (["purchase", "view"], "purchase"),
        (["cart", "click", "view"], "cart"),
        (["rating", "purchase"], "purchase"),
        (["cart", "rating"], "rating"),
        (["swipe", "cart"], "swipe"),  # an unknown type counts as bought, and goes on doing so
        (["swipe", "rating"], "rating"),
    ],
)
def test_of_repeats_the_strongest_type_counts_in_the_place_of_the_first(kinds: list[str], strongest: str) -> None:
    rows = [("u", "a", 7, kinds[0]), ("u", "b", 7, "view"), *(("u", "a", 7, kind) for kind in kinds[1:])]
    dataset = prepared([*rows, ("u", "a", 8, "view"), ("v", "a", 7, "view")])
    assert [dataset.item_ids[item] for item in dataset.items] == ["a", "b", "a", "a"]
    expected = event_numbers(pl.DataFrame({"event": [strongest, "view", "view", "view"]}))
    assert dataset.event_types.tolist() == expected.tolist()


def test_without_repeats_types_stay() -> None:
    rows = np.array([0, 0, 1], dtype=np.int32)
    times = np.array([1, 2, 3])
    types = np.array([-1, 3, 0], dtype=np.int8)
    found = strongest_types(rows, rows, times, types, np.zeros(3, dtype=np.bool_))
    assert found.tolist() == types.tolist()


def log_of(*kinds: str) -> st.SearchStrategy[list[tuple[str, str, int, str]]]:
    row = st.tuples(st.sampled_from("uv"), st.sampled_from("ab"), st.integers(1, 3), st.sampled_from(kinds))
    return st.lists(row, min_size=1, max_size=20).map(lambda rows: sorted(rows, key=lambda row: row[2]))


def typed(dataset: Dataset) -> dict[tuple[str, str, int], int]:
    """Return the type of every interaction; all of them are kept, each once."""
    owners = np.repeat(np.arange(dataset.users), np.diff(dataset.offsets))
    arrays = (owners, dataset.items, dataset.timestamps, dataset.event_types)
    columns = zip(*(array.tolist() for array in arrays), strict=True)
    found = {(dataset.user_ids[user], dataset.item_ids[item], at): kind for user, item, at, kind in columns}
    assert len(found) == dataset.interactions
    return found


@settings(deadline=None)
@given(log_of(*EVENT_TYPES, "swipe"), log_of(*EVENT_TYPES))
def test_events_that_repeat_base_data_tell_the_same_types_as_if_prepared_with_them(
    rows: list[tuple[str, str, int, str]], later: list[tuple[str, str, int, str]]
) -> None:
    items = {row[1] for row in rows}
    later = [row for row in later if row[1] in items]
    columns = {"user": "user_id", "item": "item_id", "event": "type"}
    merged = merge_data(prepared(rows), frame_of(later).rename(columns), {}).dataset
    together = prepared(sorted([*rows, *later], key=lambda row: row[2]))
    assert typed(merged) == typed(together)


NEGATIVE = [("u", "a", 5, "dislike"), ("v", "b", 6, "Hide"), ("u", "b", 7, "impression"), ("v", "b", 8, "thumbs down")]


def test_what_does_not_speak_for_an_item_is_left_out() -> None:
    with_others = prepared(sorted([*ROWS, *NEGATIVE], key=lambda row: row[2]))
    assert with_others.fingerprint == prepared().fingerprint
    assert "4 interactions are of a type that is left out (data.event_weights)" in with_others.notes
    assert len(with_others.set_aside) == 0


def test_types_of_weight_0_are_left_out_of_base_data_and_events() -> None:
    """By known names, and by a shop's own."""
    options = PrepareOptions(min_user=1, min_item=1, event_weights={"view": 0, "swipe": 0})
    rows = [*ROWS, ("v", "b", 5, "swipe"), ("v", "b", 6, "wish_list"), ("v", "a", 7, "pageview")]
    dataset = build_dataset(RawData("shop", frame_of(rows), {}), options)
    assert dataset.event_types.tolist() == [3, 2, 3, -1]

    columns = {"user": "user_id", "item": "item_id", "event": "type"}
    later = frame_of([("u", "a", 8, "swipe"), ("u", "a", 9, "cart"), ("u", "b", 10, "dislike"), ("u", "a", 11, "view")])
    merged = merge_data(dataset, later.rename(columns), {})
    assert (merged.accepted, merged.rejected) == (1, {"type left out": 3})
    assert merged.dataset.event_types.tolist() == [3, 2, 2, 3, -1]


def test_a_prepared_data_set_remembers_the_weights(tmp_path: Path) -> None:
    options = PrepareOptions(min_user=1, min_item=1, event_weights={"view": 0})
    save_dataset(build_dataset(RawData("shop", frame_of(ROWS), {}), options), tmp_path)
    assert load_dataset(tmp_path).filters.event_weights == {"view": 0}


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({"view": -1}, "the weight of view must be 0 or more"),
        ({"view": float("inf")}, "finite number"),
        ({"dislike": 1}, "dislike cannot have a weight above 0"),
        ({"impression": 0.5}, "impression cannot have a weight above 0"),
    ],
)
def test_weights_are_checked(weights: dict[str, float], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        PrepareOptions(event_weights=weights)


def test_training_weights_are_1_on_average_over_targets() -> None:
    rows = [
        ("u", item, at, kind) for at, (item, kind) in enumerate(zip("abcde", ["view"] * 3 + ["cart"] * 2, strict=True))
    ]
    weights = {"view": 0.2, "cart": 2}
    options = PrepareOptions(min_user=1, min_item=1, event_weights=weights)
    weighted = build_dataset(RawData("shop", frame_of(rows), {}), options)
    [found] = weighted.training_weights() or []
    assert found.tolist() == pytest.approx([1, 1, 1])  # the last two are held out
    both = build_dataset(
        RawData("shop", frame_of([*rows, ("u", "f", 9, "swipe"), ("u", "g", 9, "swipe")]), {}), options
    )
    [found] = both.training_weights() or []
    assert found[1:].mean() == pytest.approx(1)
    assert found[3] / found[1] == pytest.approx(10)


def test_data_whose_types_all_weigh_1_has_no_weights() -> None:
    assert prepared().training_weights() is None
    options = PrepareOptions(min_user=1, min_item=1, event_weights={"click": 5})
    without_clicks = build_dataset(RawData("shop", frame_of(ROWS), {}), options)
    assert without_clicks.training_weights() is None
    assert without_clicks.fingerprint == prepared().fingerprint
    other = build_dataset(
        RawData("shop", frame_of(ROWS), {}), options.model_copy(update={"event_weights": {"view": 5}})
    )
    assert other.fingerprint != prepared().fingerprint
