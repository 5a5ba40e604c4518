"""Time split: known answers, and what holds for any data: training never sees anything from the cut on."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model_store.errors import DataError
from training.config import load_config
from training.data.dataset import Dataset
from training.data.prepare import PrepareOptions, open_or_prepare, prepare
from training.data.split import Cuts, Division, SplitOptions, utc
from training.data.storage import load_dataset, save_dataset
from training.retraining.merged_data import merge_data

AT_20_AND_40 = SplitOptions(split="time", valid_from=20, test_from=40)

Row = tuple[str, str, int]
ROWS: list[Row] = [
    ("ann", "tea", 10),
    ("ann", "jam", 19),
    ("ann", "egg", 20),  # at the cut: validation
    ("ann", "rye", 25),
    ("ann", "tea", 40),
    ("ann", "oil", 41),
    ("bob", "jam", 12),
    ("bob", "egg", 50),
    ("cat", "rye", 30),  # no history at the first cut
    ("cat", "tea", 45),
    ("dan", "tea", 1),
    ("dan", "egg", 2),
    ("dan", "jam", 3),
]


def made(rows: list[Row], split: SplitOptions) -> Dataset:
    frame = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}, orient="row")
    return Dataset.from_frame("tiny", frame, {}, split=split)


def names(dataset: Dataset, rows: np.ndarray) -> list[str]:
    return [dataset.item_ids[row] for row in rows]


def test_the_first_interaction_of_each_period_is_the_target() -> None:
    dataset = made(ROWS, AT_20_AND_40)
    assert [names(dataset, s) for s in dataset.training_sequences()] == [
        ["tea", "jam"],
        ["jam"],
        [],
        ["tea", "egg", "jam"],
    ]
    valid, test = dataset.validation(), dataset.test()
    assert [dataset.user_ids[int(user)] for user in valid.users] == ["ann"]
    assert names(dataset, valid.targets) == ["egg"]
    assert [names(dataset, history) for history in valid.histories] == [["tea", "jam"]]
    assert [dataset.user_ids[int(user)] for user in test.users] == ["ann", "bob", "cat"]
    assert names(dataset, test.targets) == ["tea", "egg", "tea"]
    assert [names(dataset, history) for history in test.histories] == [["tea", "jam", "egg", "rye"], ["jam"], ["rye"]]


interactions = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.integers(1, 60)), min_size=1, max_size=60
)


@settings(deadline=None)
@given(interactions, st.integers(2, 50), st.integers(1, 9))
def test_training_ends_before_the_cut_and_histories_before_their_targets(rows: list[Row], cut: int, gap: int) -> None:
    split = SplitOptions(split="time", valid_from=cut, test_from=cut + gap)
    dataset = made([*rows, ("old", "u", 1), ("new", "u", 60)], split)
    train = dataset.training_sequences()
    for user, sequence in enumerate(train):
        start = int(dataset.offsets[user])
        times = dataset.timestamps[start : int(dataset.offsets[user + 1])]
        assert len(sequence) == (times < cut).sum()
        np.testing.assert_array_equal(sequence, dataset.sequence(user)[: len(sequence)])
    for part, begin, end in ((dataset.validation(), cut, cut + gap), (dataset.test(), cut + gap, 61)):
        assert len(part.histories) == len(part.targets) == len(part.users) == len(set(part.users.tolist()))
        for history, target, user in zip(part.histories, part.targets, part.users, strict=True):
            at = int(dataset.offsets[user]) + len(history)
            assert begin <= dataset.timestamps[at] < end
            assert dataset.items[at] == target
            assert len(history) >= 1
            assert dataset.timestamps[at - 1] < begin


@settings(deadline=None)
@given(interactions, st.sampled_from([SplitOptions(), AT_20_AND_40]))
def test_flat_training_rows_equal_the_list_and_popularity_counts_them(rows: list[Row], split: SplitOptions) -> None:
    dataset = made([*rows, ("old", "u", 1), ("new", "u", 60)], split)
    flat, listed = dataset.training_csr(), dataset.training_sequences()
    assert len(flat.offsets) == len(listed) + 1
    for user, sequence in enumerate(listed):
        np.testing.assert_array_equal(flat.items[flat.offsets[user] : flat.offsets[user + 1]], sequence)
    counted = np.bincount(np.concatenate(listed), minlength=dataset.n_items)
    np.testing.assert_array_equal(dataset.popularity(), counted)


def test_shares_divide_interactions_and_never_a_second() -> None:
    split = SplitOptions(split="time", valid_share=0.2, test_share=0.1)
    cuts = made([("u", f"i{time}", time) for time in range(100, 200)], split).cuts
    assert cuts == (170, 190)
    tied = made([("u", f"i{n}", time) for n, time in enumerate([1] * 60 + [2] * 20 + [3] * 20)], split)
    assert tied.cuts == (2, 3)
    assert [len(sequence) for sequence in tied.training_sequences()] == [60]


def test_later_interactions_move_the_cuts_of_shares_but_not_those_that_are_set() -> None:
    rows = [("u", f"i{time}", time) for time in range(100)]
    later = pl.DataFrame({"user_id": "u", "item_id": "i0", "timestamp": range(100, 200)})
    by_share = merge_data(made(rows, SplitOptions(split="time")), later, {}).dataset
    assert by_share.cuts == (160, 180)
    fixed = merge_data(made(rows, AT_20_AND_40), later, {}).dataset
    assert fixed.cuts == (20, 40)


def test_impossible_cuts_are_refused() -> None:
    with pytest.raises(DataError, match="no time split"):
        _ = made([("u", "i", 0), ("u", "j", 0)], SplitOptions(split="time")).cuts
    with pytest.raises(DataError, match="no time split"):
        _ = made(ROWS, SplitOptions(split="time", valid_from=20, test_from=99)).cuts


@pytest.mark.parametrize(
    "wrong",
    [
        {"valid_share": 0.5, "test_share": 0.5},
        {"valid_from": 5},
        {"valid_from": 5, "test_from": 4},
        {"valid_from": "soon", "test_from": "later"},
        {"valid_from": -5, "test_from": 4},
        {"test_from": 4},
        {"valid_share": 0.0},
        {"test_share": 0.0},
        {"valid_share": -0.1},
        {"test_share": 1.0},
    ],
)
def test_contradictory_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SplitOptions.model_validate({"split": "time", **wrong})


@pytest.mark.parametrize("unset", [0, "", " "])
def test_a_moment_that_is_not_set_leaves_it_to_the_shares(unset: int | str) -> None:
    options = SplitOptions.model_validate({"split": "time", "valid_from": unset, "test_from": unset})
    assert options == SplitOptions(split="time")


def test_periods_begin_after_the_oldest_and_end_with_the_newest_interaction() -> None:
    times = np.array([50, 10, 20, 30, 40])
    for valid, test in ((11, 12), (11, 50), (49, 50)):
        assert SplitOptions(split="time", valid_from=valid, test_from=test).cuts(times) == Cuts(valid, test)
    for valid, test in ((10, 20), (9, 20), (20, 20), (20, 51)):
        with pytest.raises(DataError, match="no time split"):
            SplitOptions(split="time", valid_from=valid, test_from=test).cuts(times)
    smallest = SplitOptions(split="time", valid_share=0.5, test_share=1e-17)
    assert smallest.cuts(times) == Cuts(30, 50)


def division(lengths: list[int], times: list[int], cuts: Cuts | None = None) -> Division:
    return Division(np.cumsum([0, *lengths]), np.array(times), cuts)


def test_leave_one_out_holds_back_two_of_three_or_more() -> None:
    found = division([1, 2, 3, 5], [7] * 11)
    assert found.training_lengths.tolist() == [1, 2, 1, 3]
    assert found.validation_targets.tolist() == [-1, -1, 4, 9]
    assert found.test_targets.tolist() == [-1, -1, 5, 10]
    assert np.flatnonzero(found.is_training).tolist() == [0, 1, 2, 3, 6, 7, 8]
    assert found.is_training.dtype == np.bool_


@pytest.mark.parametrize("split", [SplitOptions(evaluated_users=3), SplitOptions(evaluated_users=9)])
def test_of_many_users_the_same_sample_is_evaluated_every_time(split: SplitOptions) -> None:
    rows = [(f"u{user}", f"i{step}", step) for user in range(8) for step in range(2 + user % 4)]
    everyone, sampled, again = made(rows, SplitOptions()).test(), made(rows, split).test(), made(rows, split).test()
    assert len(everyone.users) == 6  # two have too few interactions
    assert len(sampled.users) == min(6, split.evaluated_users)
    assert sampled.users.tolist() == again.users.tolist() == sorted(set(sampled.users.tolist()))
    place = np.searchsorted(everyone.users, sampled.users)
    assert everyone.users[place].tolist() == sampled.users.tolist()
    assert everyone.targets[place].tolist() == sampled.targets.tolist()
    assert made(rows, split).validation().users.tolist() == sampled.users.tolist()


def test_a_time_split_takes_the_first_of_each_period_after_some_history() -> None:
    # Cuts at 20 and 40: a start belongs to its period.
    users = [[10, 20, 30, 40, 50], [20, 40], [5, 19, 39], [40], [10, 41], [1]]
    found = division([len(times) for times in users], [at for times in users for at in times], Cuts(20, 40))
    assert found.training_lengths.tolist() == [1, 0, 2, 0, 1, 1]
    assert found.validation_targets.tolist() == [1, -1, 9, -1, -1, -1]
    assert found.test_targets.tolist() == [3, 6, -1, -1, 12, -1]
    assert np.flatnonzero(found.is_training).tolist() == [0, 7, 8, 11, 13]


def test_times_out_of_the_calendar_stay_numbers() -> None:
    assert utc(0) == "1970-01-01T00:00:00Z"
    assert utc(10**20) == str(10**20)


@pytest.mark.parametrize("moment", ["2020-01-01", "2020-01-01T00:00:00Z", '"2020-01-01T01:00:00+01:00"', "1577836800"])
def test_cuts_are_set_as_dates_or_seconds(moment: str) -> None:
    config = load_config("cpu", ["data.split=time", f"data.valid_from={moment}", "data.test_from=2021-01-01"])
    assert config.data.valid_from == datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    assert config.data.test_from == datetime(2021, 1, 1, tzinfo=UTC).timestamp()


def test_the_split_is_stored_told_and_part_of_the_fingerprint(tmp_path: Path) -> None:
    source = tmp_path / "c.csv"
    source.write_text("user,item,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in ROWS))
    said: list[str] = []
    options = PrepareOptions(min_user=1, min_item=1, split="time", valid_from=20, test_from=40)
    dataset = prepare(str(source), tmp_path / "out", options, said.append)
    assert "validation from 1970-01-01T00:00:20Z with 1 users, test from 1970-01-01T00:00:40Z with 3 users" in said[-1]
    loaded = load_dataset(tmp_path / "out")
    assert loaded.split == AT_20_AND_40
    assert loaded.cuts == (20, 40)
    assert loaded.fingerprint == dataset.fingerprint != made(ROWS, SplitOptions()).fingerprint
    assert open_or_prepare(str(tmp_path / "out"), tmp_path / "x", PrepareOptions(), said.append).cuts == (20, 40)
    assert "keeps the split that it was prepared with, time" in said[-1]


def test_a_split_that_leaves_nobody_to_test_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "c.csv"
    source.write_text("user,item,timestamp\na,x,1\na,y,2\nb,x,3\nc,y,4\n")
    options = PrepareOptions(min_user=1, min_item=1, split="time", valid_from=2, test_from=3)
    with pytest.raises(DataError, match="1 users for validation and 0 for the test"):
        prepare(str(source), tmp_path / "out", options, lambda line: None)


def test_a_folder_of_the_older_layout_is_refused_and_prepared_anew(tmp_path: Path) -> None:
    save_dataset(made(ROWS, SplitOptions()), tmp_path)
    seal = (tmp_path / "dataset.json").read_text().replace('"format": 3', '"format": 1')
    (tmp_path / "dataset.json").write_text(seal)
    with pytest.raises(DataError, match="layout 1, this version reads layout 3"):
        load_dataset(tmp_path)
