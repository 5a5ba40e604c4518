"""Types of interactions, from a shop's names to the bundle."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from training.data.dataset import Dataset
from training.data.event_types import event_numbers
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
