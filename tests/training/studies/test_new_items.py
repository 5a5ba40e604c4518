"""Items that training never saw come back live: what is held out, who is asked, and what the command reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model_store.console import run
from model_store.errors import DataError
from model_store.new_items.item_encoder import SIMILAR_ITEMS
from tests.support.tiny import ITEMS, OVERRIDES, set_options, write_cycle
from training.cli import app
from training.config import load_config
from training.data.dataset import Dataset, ItemInfo
from training.loop.progress import SilentProgress
from training.studies.held_out_items import held_out_targets, hold_out
from training.studies.new_items import NewItems, genre_scores
from training.studies.new_items_report import CUTOFF

SHARE = 0.2
NEW = round(SHARE * ITEMS)


def dataset_of(sequences: dict[str, list[str]]) -> Dataset:
    pairs = [(user, item) for user, items in sequences.items() for item in items]
    frame = pl.DataFrame(pairs, schema=["user", "item"], orient="row").with_columns(
        timestamp=pl.int_range(len(pairs), dtype=pl.Int64)
    )
    return Dataset.from_frame("made", frame, {name: ItemInfo(f"title of {name}") for name in "abcdef"})


WHOLE = dataset_of({"u": list("abcda"), "v": list("bd"), "w": list("efe"), "x": list("c")})


def test_what_is_left_has_no_trace_of_the_new_items() -> None:
    held = hold_out(WHOLE, 0.5, seed=3)
    assert len(held.items) == 3
    gone = {WHOLE.item_ids[row] for row in held.items}
    assert gone | set(held.dataset.item_ids) == set(WHOLE.item_ids)
    left = {
        user: [held.dataset.item_ids[item] for item in held.dataset.sequence(row)]
        for row, user in enumerate(held.dataset.user_ids)
    }
    everything = {
        user: [WHOLE.item_ids[item] for item in WHOLE.sequence(row)] for row, user in enumerate(WHOLE.user_ids)
    }
    expected = {user: [item for item in items if item not in gone] for user, items in everything.items()}
    assert left == {user: items for user, items in expected.items() if items}
    assert held.dataset.titles == [f"title of {name}" for name in held.dataset.item_ids]


def test_rows_of_items_that_left_follow_the_others() -> None:
    held = hold_out(WHOLE, 0.5, seed=3)
    by_row = {int(held.row[row]): item_id for row, item_id in enumerate(WHOLE.item_ids)}
    assert [by_row[row] for row in range(3)] == held.dataset.item_ids
    assert [by_row[row] for row in range(3, 6)] == [WHOLE.item_ids[row] for row in held.items]


def test_everyone_is_asked_for_the_newest_new_item_after_what_came_before() -> None:
    for seed in range(6):
        held = hold_out(WHOLE, 0.5, seed)
        by_row = {int(held.row[row]): item_id for row, item_id in enumerate(WHOLE.item_ids)}
        gone = {WHOLE.item_ids[row] for row in held.items}
        asked = held_out_targets(WHOLE, held)
        found = {
            WHOLE.user_ids[user]: ([by_row[item] for item in history], by_row[target])
            for history, target, user in zip(asked.histories, asked.targets.tolist(), asked.users.tolist(), strict=True)
        }
        expected = {}
        for row, user in enumerate(WHOLE.user_ids):
            items = [WHOLE.item_ids[item] for item in WHOLE.sequence(row)]
            places = [place for place, item in enumerate(items) if item in gone and place > 0]
            if places:
                expected[user] = (items[: places[-1]], items[places[-1]])
        assert found == expected


@pytest.mark.parametrize("share", [0.0, 0.01, 0.99])
def test_some_items_must_leave_and_some_stay(share: float) -> None:
    with pytest.raises(DataError, match=f"a share of {share} holds out"):
        hold_out(WHOLE, share, seed=0)


def test_popularity_within_genre() -> None:
    categories = [("a",), ("a", "b"), ("b",), ("a",), ()]  # the last two are new
    found = genre_scores(categories, np.array([10, 4, 6]), [np.array([0, 0]), np.array([2]), np.array([3])])
    # Averages of trained items: a 7, b 5. Taste of the users: a, b, a.
    np.testing.assert_allclose(found, [[10, 2, 0, 7, 0], [0, 2, 6, 0, 0], [10, 2, 0, 7, 0]])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The cycle, in which an item's place is told by its shelf; and the settings to read it."""
    folder = tmp_path_factory.mktemp("new-items")
    write_cycle(folder / "cycle.txt", users=120)
    rows = [{"item_id": f"i{row}", "title": f"Thing {row}", "shelf": f"s{row // 3}"} for row in range(ITEMS)]
    pl.DataFrame(rows).write_csv(folder / "items.csv")
    return folder, [f"data.items_file={folder / 'items.csv'}", 'data.columns.attributes=["shelf"]']


@pytest.fixture(scope="module")
def measured(world: tuple[Path, list[str]]) -> tuple[Path, NewItems]:
    folder, data = world
    settings = ["new-items", "--data", str(folder / "cycle.txt"), "--out", str(folder / "out"), "--preset", "demo"]
    options = [*settings, "--share", str(SHARE), *set_options(data)]
    assert run(app, "etegrec-train", options) == 0
    config = load_config("demo", [*OVERRIDES, *data])
    return folder, NewItems(folder / "out", config, str(folder / "cycle.txt"), SHARE, SilentProgress())


def test_new_items_come_live_by_their_content_alone(measured: tuple[Path, NewItems]) -> None:
    _, measurement = measured
    published, live = measurement.bundle.catalogue(), measurement.catalogue
    live.check_integrity()
    assert (len(published), len(live), live.trained) == (ITEMS - NEW, ITEMS, ITEMS - NEW)
    np.testing.assert_array_equal(live.codes[: live.trained], published.codes)
    new = [measurement.whole_data.item_ids[row] for row in measurement.held_out.items]
    assert list(live.item_ids)[live.trained :] == new
    assert not set(new) & set(published.item_ids)
    assert measurement.pipeline.dataset.has_content
    assert SIMILAR_ITEMS in measurement.bundle
    assert set(measurement.bundle.manifest.tokenizer["content"]) >= {"cosine", "penalty"}  # type: ignore[arg-type]


def test_the_report_holds_together(measured: tuple[Path, NewItems], capsys: pytest.CaptureFixture[str]) -> None:
    _, measurement = measured
    report: dict[str, Any] = measurement.run().as_dict()
    assert (report["items"], report["new_items"]) == (ITEMS, NEW)
    assert report["users"] == len(held_out_targets(measurement.whole_data, measurement.held_out).targets) > 50
    assert 0 < report["demand"] < 0.5
    assert set(report["recall"]) == set(report["recall_among_new"]) == {"model", "genre_popularity", "random"}
    [plain] = [row for row in report["boosts"] if row["fresh_boost"] == 0]
    assert plain["recall"] == report["recall"]["model"]
    exposure = [row["other_exposure"] for row in report["boosts"]]
    assert exposure == sorted(exposure)
    assert exposure[-1] > exposure[0]
    assert report["boosts"][-1]["other_ndcg"] < plain["other_ndcg"]
    # Six new items among the ten answers: whoever ranks only those finds them all.
    assert CUTOFF > NEW
    assert report["recall_among_new"]["model"] == 1
    json.dumps(report, allow_nan=False)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("kind", ["no items file", "empty titles", "punctuation", "vectors alone"])
def test_items_that_say_nothing_are_refused_before_training(tmp_path: Path, kind: str) -> None:
    write_cycle(tmp_path / "cycle.txt")
    items = pl.DataFrame({"item_id": [f"i{row}" for row in range(ITEMS)]})
    if kind == "vectors alone":
        items = items.with_columns(emb=pl.Series([[float(row), 1.0] for row in range(ITEMS)]))
    else:
        items = items.with_columns(title=pl.lit("" if kind == "empty titles" else "!!! ---"))
    items.write_parquet(tmp_path / "items.parquet")

    data = [] if kind == "no items file" else [f"data.items_file={tmp_path / 'items.parquet'}"]
    data += ["data.columns.vector=emb"] if kind == "vectors alone" else []
    config = load_config("demo", [*OVERRIDES, *data])
    study = NewItems(tmp_path / "out", config, str(tmp_path / "cycle.txt"), SHARE, SilentProgress())
    with pytest.raises(DataError, match="no item says anything in title, categories or attributes") as refused:
        study.run()
    assert "--items FILE" in refused.value.hint
    assert not (tmp_path / "out" / "run").exists()
