"""Sequences, split, popularity and storage of a data set with known answers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model_store.errors import DataError
from training.data.dataset import Dataset, ItemInfo
from training.data.storage import load_dataset, save_dataset

Row = tuple[str, str, int]

ROWS: list[Row] = [
    ("ann", "tea", 30),
    ("bob", "tea", 5),
    ("ann", "jam", 10),
    ("ann", "egg", 20),
    ("ann", "jam", 20),  # tied with the egg before it
    ("bob", "egg", 4),
    ("cat", "rye", 1),
    ("cat", "tea", 2),
    ("cat", "egg", 3),
]


def made(rows: list[Row] = ROWS, info: dict[str, ItemInfo] | None = None) -> Dataset:
    frame = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}, orient="row")
    return Dataset.from_frame("tiny", frame, info or {})


def names(dataset: Dataset, rows: np.ndarray) -> list[str]:
    return [dataset.item_ids[row] for row in rows]


def test_users_and_items_are_numbered_by_first_appearance_and_sorted_by_time() -> None:
    dataset = made()
    assert dataset.user_ids.to_list() == ["ann", "bob", "cat"]
    assert dataset.item_ids == ["tea", "jam", "egg", "rye"]
    assert names(dataset, dataset.sequence(0)) == ["jam", "egg", "jam", "tea"]
    assert names(dataset, dataset.sequence(1)) == ["egg", "tea"]
    assert (dataset.users, dataset.n_items, dataset.interactions) == (3, 4, 9)
    assert dataset.density == 9 / 12
    assert dataset.items.dtype == np.int32
    assert dataset.offsets.dtype == dataset.timestamps.dtype == np.int64


def test_equal_timestamps_keep_the_order_of_the_input() -> None:
    letters = ["z", "a", "m", "b", "y"]
    dataset = made([("u", letter, 7) for letter in letters])
    assert names(dataset, dataset.sequence(0)) == letters


def test_split_leaves_the_last_two_out_and_short_users_train_only() -> None:
    dataset = made()
    assert [names(dataset, s) for s in dataset.training_sequences()] == [["jam", "egg"], ["egg", "tea"], ["rye"]]
    valid, test = dataset.validation(), dataset.test()
    assert [names(dataset, history) for history in valid.histories] == [["jam", "egg"], ["rye"]]
    assert names(dataset, valid.targets) == ["jam", "tea"]
    assert [names(dataset, history) for history in test.histories] == [["jam", "egg", "jam"], ["rye", "tea"]]
    assert names(dataset, test.targets) == ["tea", "egg"]
    assert valid.users.tolist() == test.users.tolist() == [0, 2]


def test_popularity_counts_training_sequences_only() -> None:
    dataset = made()
    counted = np.bincount(np.concatenate(dataset.training_sequences()), minlength=dataset.n_items)
    assert dataset.popularity().tolist() == counted.tolist() == [1, 1, 2, 1]
    assert dataset.popularity("all").tolist() == [3, 2, 3, 1]


def test_items_carry_their_information_and_unknown_ones_are_empty() -> None:
    dataset = made(info={"jam": ItemInfo("Jam", ("food",), {"grams": 340}), "unsold": ItemInfo("Unsold")})
    assert dataset.titles == ["", "Jam", "", ""]
    assert dataset.categories[1] == ("food",)
    assert dataset.attributes[1] == {"grams": 340}


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    dataset = made(info={"jam": ItemInfo("Jäm", ("food", "red"), {"grams": 340})})
    dataset = replace(dataset, notes=("from a test",))
    save_dataset(dataset, tmp_path / "data")
    loaded = load_dataset(tmp_path / "data")
    assert loaded.fingerprint == dataset.fingerprint
    assert (loaded.name, loaded.notes) == ("tiny", ("from a test",))
    assert loaded.categories == dataset.categories
    assert (loaded.titles, loaded.attributes) == (dataset.titles, dataset.attributes)
    for column in ("offsets", "items", "timestamps"):
        np.testing.assert_array_equal(getattr(loaded, column), getattr(dataset, column))
        assert getattr(loaded, column).dtype == getattr(dataset, column).dtype


TABLES = ["interactions", "users", "items", "untrained_items", "set_aside"]


@pytest.mark.parametrize("name", [*(f"{table}.parquet" for table in TABLES), "dataset.json"])
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str) -> None:
    save_dataset(made(), tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="decode"):
        load_dataset(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError):
        load_dataset(tmp_path)


def test_content_that_differs_from_the_fingerprint_is_refused(tmp_path: Path) -> None:
    save_dataset(made(), tmp_path)
    save_dataset(made([*ROWS, ("cat", "jam", 4)]), tmp_path / "other")
    (tmp_path / "other" / "interactions.parquet").rename(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match="fingerprint"):
        load_dataset(tmp_path)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    save_dataset(made(), tmp_path)
    seal = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**seal, "format": 99}))
    with pytest.raises(DataError, match="layout 99"):
        load_dataset(tmp_path)


def test_fingerprint_follows_content_not_name() -> None:
    dataset = made()
    assert replace(dataset, name="other", notes=("x",)).fingerprint == dataset.fingerprint
    assert made(info={"jam": ItemInfo("Jam")}).fingerprint != dataset.fingerprint


@pytest.mark.parametrize("bad", ["", "x" * 129, "é" * 65])
def test_ids_out_of_bounds_are_refused(bad: str) -> None:
    with pytest.raises(DataError, match="1 to 128 bytes"):
        made([("u", bad, 1)])
    with pytest.raises(DataError, match="1 to 128 bytes"):
        made([(bad, "i", 1)])


def test_contradictions_are_found() -> None:
    dataset = made()
    backwards = dataset.timestamps.copy()
    backwards[:2] = backwards[1::-1]
    for broken in (
        replace(dataset, titles=["only one"]),
        replace(dataset, item_ids=["tea"] * 4),
        replace(dataset, offsets=dataset.offsets[:-1]),
        replace(dataset, items=dataset.items + 1),
        replace(dataset, timestamps=dataset.timestamps[1:]),
        replace(dataset, timestamps=backwards),
    ):
        with pytest.raises(DataError, match="tiny"):
            broken.check_integrity()


def test_no_interactions_are_an_error() -> None:
    with pytest.raises(DataError, match="no interactions"):
        made([])
