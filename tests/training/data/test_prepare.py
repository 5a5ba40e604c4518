"""What the filters leave out: repeats, interactions set aside, items served by their content, and what is said."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model_store.console import run
from model_store.errors import DataError
from training.cli import app
from training.data.dataset import Dataset, ItemInfo
from training.data.prepare import NOT_SERVED, PrepareOptions, build_dataset, prepare
from training.data.raw import RawData
from training.data.storage import load_dataset, save_dataset

Row = tuple[str, str, int]

FEW = PrepareOptions(min_user=2, min_item=2)
ROWS: list[Row] = [
    ("ann", "tea", 1),
    ("bob", "tea", 2),
    ("ann", "rye", 3),  # an item with one interaction
    ("cat", "tea", 4),  # a user with one interaction
    ("ann", "jam", 5),
    ("bob", "jam", 6),
    ("bob", "fig", 7),  # an item with one interaction of which nothing is known
]
INFO = {
    "tea": ItemInfo("Tea", ("drinks",)),
    "jam": ItemInfo("Jam"),
    "rye": ItemInfo("Rye", ("bread",), {"grams": 500}),
    "cod": ItemInfo("Cod"),  # never sold
    "bag": ItemInfo(),  # without content
}


def made(rows: list[Row] = ROWS, info: dict[str, ItemInfo] = INFO, options: PrepareOptions = FEW) -> Dataset:
    frame = pl.DataFrame(rows, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}, orient="row")
    return build_dataset(RawData("shop", frame, info), options)


def test_every_item_of_the_items_file_stays_with_its_content() -> None:
    dataset = made()
    assert dataset.item_ids == ["tea", "jam"]
    others = dataset.untrained_items
    assert list(others.item_ids) == ["rye", "cod", "bag"]
    assert list(others.titles) == ["Rye", "Cod", ""]
    assert (others.categories[0], others.attributes[0]) == (("bread",), {"grams": 500})
    assert others.has_content.tolist() == [True, True, False]
    assert list(dataset.placeable_items().item_ids) == ["rye", "cod"]
    assert dataset.unplaceable_items().to_list() == ["bag", "fig"]


def test_interactions_below_the_filters_are_set_aside_with_their_place() -> None:
    dataset = made()
    assert (dataset.users, dataset.interactions) == (2, 4)
    aside = dataset.set_aside.with_columns(pl.col("user", "item").cast(pl.String)).rows()
    assert aside == [("ann", "rye", 3, -1, 1), ("bob", "fig", 7, -1, 2), ("cat", "tea", 4, -1, 0)]
    assert dataset.count_set_aside(pl.Series(["fig", "cod", "tea"])).tolist() == [1, 0, 1]


def test_what_is_left_out_is_said_and_listed(tmp_path: Path) -> None:
    said = made().notes
    assert "filters set 3 interactions aside" in said[0]
    assert said[1:] == (
        "2 of 6 items had fewer than 2 interactions: served by content",
        "2 of 6 items had fewer than 2 interactions and no content to be placed by: not served (bag, fig)",
    )
    (tmp_path / "log.csv").write_text(
        "user,item,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in ROWS)
    )
    prepare(str(tmp_path / "log.csv"), tmp_path / "out", FEW, lambda _: None)
    listed = (tmp_path / "out" / NOT_SERVED).read_text().splitlines()
    assert listed[0] == "item_id,interactions,reason"
    assert [line.split(",")[:2] for line in listed[1:]] == [["rye", "1"], ["fig", "1"]]

    everything = PrepareOptions(min_user=1, min_item=1)
    prepare(str(tmp_path / "log.csv"), tmp_path / "out", everything, lambda _: None)
    assert not (tmp_path / "out" / NOT_SERVED).exists()


def test_many_items_that_are_not_served_are_counted_and_five_are_named() -> None:
    rows = [*ROWS, *(("ann", f"new-{number}", 10 + number) for number in range(30))]
    note = made(rows).notes[-1]
    assert note.startswith("32 of 36 items had")
    assert note.endswith(f"not served (bag, new-0, new-1, new-2, new-3 … all in {NOT_SERVED})")


def test_without_an_items_file_items_below_the_filters_are_counted() -> None:
    dataset = made(info={})
    assert len(dataset.untrained_items) == 0
    assert dataset.notes[1:] == (
        "2 of 4 items had fewer than 2 interactions and no content to be placed by: not served (rye, fig)",
    )


def test_content_of_untrained_items_alone_places_nothing() -> None:
    """The content model learns from trained items."""
    dataset = made(info={"rye": INFO["rye"], "cod": INFO["cod"]})
    assert len(dataset.placeable_items()) == 0
    assert dataset.unplaceable_items().to_list() == ["rye", "cod", "fig"]


@pytest.mark.parametrize(
    ("vector", "words"),
    [(None, "content is not read"), (np.ones(2, dtype=np.float32), "of content only the vectors are read")],
)
def test_a_shop_whose_items_say_nothing_is_told_so(vector: np.ndarray | None, words: str) -> None:
    info = {name: ItemInfo("!!!", (" ",), vector=vector) for name in ("tea", "jam", "rye")}
    dataset = made(info=info)
    assert not dataset.has_content
    said = f"no trained item says anything that can be read: {words}, and new items cannot be placed"
    assert dataset.notes[-1] == said
    assert not any("says anything" in note for data in (made(), made(info={})) for note in data.notes)


def test_a_shop_may_serve_trained_items_only() -> None:
    options = FEW.model_copy(update={"serve_untrained": False})
    assert (
        "2 of 6 items had fewer than 2 interactions: not served, as data.serve_untrained is off"
        in made(options=options).notes
    )


def test_the_items_file_reaches_the_data_set_whole(tmp_path: Path) -> None:
    rows = "".join(f"{user},{item},{time}\n" for user, item, time in ROWS)
    (tmp_path / "log.csv").write_text("user,item,timestamp\n" + rows)
    (tmp_path / "items.csv").write_text("item,title\ntea,Tea\njam,Jam\nrye,Rye\ncod,Cod\n")
    options = FEW.model_copy(update={"items_file": str(tmp_path / "items.csv")})
    dataset = prepare(str(tmp_path / "log.csv"), tmp_path / "out", options, lambda _: None)
    assert list(dataset.untrained_items.item_ids) == ["rye", "cod"]


def test_what_is_left_out_is_stored_and_part_of_the_fingerprint(tmp_path: Path) -> None:
    dataset = made()
    save_dataset(dataset, tmp_path)
    loaded = load_dataset(tmp_path)
    assert loaded.fingerprint == dataset.fingerprint
    assert loaded.filters == dataset.filters == FEW.filter_options
    for name, column in dataset.untrained_items.arrays().items():
        np.testing.assert_array_equal(loaded.untrained_items.arrays()[name], column)
    text = pl.col("user", "item").cast(pl.String)
    assert loaded.set_aside.with_columns(text).equals(dataset.set_aside.with_columns(text))

    others = [
        made(info={**INFO, "cod": ItemInfo("Dried cod")}),
        made(info={**INFO, "eel": ItemInfo("Eel")}),
        made(ROWS[:-1]),
        made([*ROWS[:-1], ("bob", "fig", 8)]),
        made([*ROWS[:-1], ("cat", "fig", 7)]),
    ]
    assert len({dataset.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_an_interaction_that_is_there_twice_counts_once() -> None:
    rows = [*ROWS, ("ann", "jam", 5), ("ann", "jam", 6), ("cat", "tea", 4)]
    rows.sort(key=lambda row: row[2])
    dataset = made(rows)
    assert Counter(dataset.item_ids[row] for row in dataset.sequence(0).tolist()) == {"tea": 1, "jam": 2}
    assert "2 interactions repeated user, item and second of another one: each counts once" in dataset.notes
    assert len(dataset.set_aside) == 3

    kept = made(rows, options=FEW.model_copy(update={"keep_repeats": True}))
    assert kept.interactions + len(kept.set_aside) == len(rows)


def test_without_times_nothing_is_a_repeat() -> None:
    rows = [(user, item, 0) for user, item, _ in ROWS] * 2
    dataset = made(rows)
    assert dataset.interactions + len(dataset.set_aside) == len(rows)


def test_shuffled_ties_are_those_of_the_kept_interactions_alone() -> None:
    """Published numbers depend on the order, so what is set aside must not change it."""
    rows = [(f"u{user}", f"i{item}", 1) for user in range(4) for item in range(6)]
    options = PrepareOptions(min_user=2, min_item=3, ties="shuffled")
    alone = made(rows, {}, options)
    found = made([*rows, ("u1", "rare", 1), ("once", "i1", 1)], {}, options)
    assert set(found.item_ids) == set(alone.item_ids)
    assert len(found.set_aside) == 2


def test_an_id_of_the_items_file_that_no_catalogue_takes_is_refused() -> None:
    with pytest.raises(DataError, match="1 to 128 bytes"):
        made(info={**INFO, "x" * 129: ItemInfo("Long")})


def test_the_command_counts_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.csv").write_text(
        "user,item,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in ROWS)
    )
    (tmp_path / "items.csv").write_text("item,title\ntea,Tea\ncod,Cod\n")
    arguments = ["prepare", "--data", str(tmp_path / "log.csv"), "--items", str(tmp_path / "items.csv"), "--json"]
    arguments += ["--out", str(tmp_path / "out"), "--set", "data.min_user=2", "--set", "data.min_item=2"]
    assert run(app, "etegrec-train", arguments) == 0
    assert '"untrained_items": 1, "set_aside": 3' in capsys.readouterr().out
