"""A whole catalogue: items that hardly anyone bought are placed, served, recommended and changed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.numpy

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.bundle.vector_file import VECTORS
from model_store.catalogue.catalogue import Catalogue
from model_store.new_items.item_encoder import ItemEncoder
from model_store.new_items.placed_items import place_items
from model_store.replication.item_payload import ItemContent
from model_store.search.history_encoding import encode_histories
from tests.support.service_harness import serving
from tests.support.tiny import ITEMS, OVERRIDES, write_cycle
from training.config import load_config
from training.export.bundle import publish_run
from training.export.catalogue import NO_ROOM, add_placed_items, trained_catalogue
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.run_folder import RunFolder

SECTION = 6  # items of a category


class Notes(SilentProgress):
    """Progress that keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def write_shop(folder: Path) -> tuple[Path, Path]:
    """Write a log in which each user walks along a cycle of items, and a table of all items of the shop.

    Three items were bought too rarely: ``rare`` by three users, ``unlisted``, which the table lacks, and ``plain``,
    of which it tells nothing. ``unsold`` was never bought.
    """
    lines = write_cycle(folder / "cycle.txt").read_text().splitlines()
    walks = [line.split() for line in lines]
    rows = [(user, item, 1_000 + at) for user, *items in walks for at, item in enumerate(items)]
    rows += [(f"u{user}", "rare", 900) for user in range(3)]
    rows += [("u3", "unlisted", 900), ("u4", "plain", 900), ("passer-by", "i1", 900)]
    log = folder / "log.csv"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(log)

    items = [(f"i{n}", f"Thing of section {n // SECTION}", f"section-{n // SECTION}") for n in range(ITEMS)]
    items += [
        ("unsold", "Thing of section 1", "section-1"),
        ("rare", "Thing of section 2", "section-2"),
        ("plain", "", ""),
    ]
    table = folder / "items.csv"
    pl.DataFrame(items, schema=["item_id", "title", "categories"], orient="row").write_csv(table)
    return log, table


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shop's data, the finished run and the promoted version; ``said.txt`` has what was said."""
    folder = tmp_path_factory.mktemp("shop")
    log, table = write_shop(folder)
    config = load_config("demo", [*OVERRIDES, f'data.items_file="{table}"'])
    notes = Notes()
    pipeline = Pipeline(RunFolder.create_or_resume(folder / "run", config, str(log)), notes)
    store = ModelStore(folder / "models")
    store.promote(publish_run(pipeline, store))
    (folder / "said.txt").write_text("\n".join(notes.said))
    return folder


@pytest.fixture
def bundle(shop: Path) -> Bundle:
    return ModelStore(shop / "models").bundle()


def test_the_bundle_has_every_item_that_it_can_place(bundle: Bundle) -> None:
    catalogue = bundle.verify()
    assert list(catalogue.item_ids)[ITEMS:] == ["unsold", "rare"]
    assert catalogue.row("plain") is None
    assert catalogue.row("unlisted") is None
    assert catalogue.popularity[ITEMS:].tolist() == [0, 3]
    assert int(catalogue.popularity.sum()) == 80 * 10 + 3 + 1  # the one of the passer-by as well
    assert bundle.manifest.data.counts == {
        "users": 80,
        "items": ITEMS,
        "interactions": 800,
        "items_served_by_content": 2,
        "interactions_set_aside": 6,
    }

    arrays = safetensors.numpy.load(bundle.read("embeddings.safetensors"))
    assert len(arrays["embeddings"]) == len(arrays[VECTORS]) == len(catalogue)
    lengths = np.linalg.norm(arrays["embeddings"], axis=1, keepdims=True)
    np.testing.assert_allclose(arrays["embeddings"] / lengths, arrays[VECTORS], atol=1e-5)
    neighbours = bundle.neighbours()
    assert neighbours is not None
    assert neighbours.items == neighbours.trained == ITEMS


def test_items_without_sales_are_lent_the_neighbours_of_what_they_resemble(bundle: Bundle) -> None:
    catalogue = bundle.catalogue()
    known = catalogue.resemblances
    assert (known.first, known.end) == (ITEMS, len(catalogue))
    for row, section in ((catalogue.row("unsold"), 1), (catalogue.row("rare"), 2)):
        assert row is not None
        similar = known.records["similar"][row - ITEMS]
        nearest = [catalogue.item_ids[item] for item in similar[:SECTION]]
        assert set(nearest) == {f"i{section * SECTION + item}" for item in range(SECTION)}

    memory = bundle.neighbours()
    assert memory is not None
    history = encode_histories([catalogue.rows([f"i{SECTION}"])], catalogue.trie.item_leaf, 20)
    added = memory.additions(history, catalogue.trie, 1.0, known)
    scores = dict(zip(added.leaves[0].tolist(), added.values[0].tolist(), strict=True))
    leaf = catalogue.trie.item_leaf
    assert 0 < scores[int(leaf[catalogue.row_of["unsold"]])] < scores[int(leaf[catalogue.row_of[f"i{SECTION + 1}"]])]


def test_what_is_not_served_is_said_and_listed(shop: Path, bundle: Bundle) -> None:
    said = (shop / "said.txt").read_text()
    assert "2 of 34 items had fewer than 5 interactions: served by content" in said
    assert "2 of 34 items had fewer than 5 interactions and no content to be placed by: not served" in said
    listed = bundle.read("report/items_not_served.csv").decode().splitlines()
    assert [line.split(",")[:2] for line in listed[1:]] == [["plain", "1"], ["unlisted", "1"]]


def test_an_item_without_sales_is_recommended_shown_and_changed(shop: Path) -> None:
    history = [f"i{item}" for item in range(SECTION, SECTION + 4)]

    async def ask() -> dict[str, Any]:
        async with serving(shop / "models", engine="onnx") as (client, _):
            wanted = {"history": history, "k": 20}
            # An item without sales gets less of its neighbours than they do, so many come first.
            found = {"all": (await client.post("/recommend", json={**wanted, "k": ITEMS})).json()}
            section = {**wanted, "filter": {"categories": ["section-1"]}}
            found["section"] = (await client.post("/recommend", json=section)).json()
            found["after"] = (await client.post("/recommend", json={"history": ["unsold"], "k": 5})).json()

            body = {"title": "Renamed", "categories": ["section-4"]}
            found["put"] = (await client.put("/items/unsold", json=body)).json()
            found["item"] = (await client.get("/items/unsold")).json()
            found["moved"] = (await client.post("/recommend", json=section)).json()
            return found

    found = asyncio.run(ask())
    for name in ("all", "section", "after"):
        assert (found[name]["served_by"], found[name]["unknown_items"]) == ("model", [])
    assert "unsold" in [item["item_id"] for item in found["all"]["items"]]
    # Four of the section's six trained items are in the history.
    assert sorted(item["item_id"] for item in found["section"]["items"]) == ["i10", "i11", "unsold"]
    assert len(found["after"]["items"]) == 5

    assert (found["put"]["is_new"], found["item"]["title"]) == (False, "Renamed")
    assert found["item"]["codes"] == found["put"]["codes"]
    assert sorted(item["item_id"] for item in found["moved"]["items"]) == ["i10", "i11"]


def test_a_shop_may_serve_trained_items_alone(shop: Path) -> None:
    pipeline, trained, files = exported(shop)
    config = pipeline.config
    pipeline.run.config = config.model_copy(update={"data": config.data.model_copy(update={"serve_untrained": False})})
    assert pipeline.served_items == ITEMS
    assert add_placed_items(pipeline, trained, files).catalogue is trained


def test_items_without_room_are_said_and_listed(shop: Path) -> None:
    pipeline, trained, files = exported(shop)
    encoder = ItemEncoder.of_files(files.__getitem__, files, pipeline.model, takes_embeddings=False)
    room = pipeline.model.tokenizer.codebook_size**pipeline.model.tokenizer.levels - len(trained)
    filler = [(f"filler-{n}", ItemContent("Thing", (), {})) for n in range(room - 1)]
    found = add_placed_items(pipeline, place_items(trained, encoder, filler).catalogue, files)
    assert found.no_room == ["rare"]
    assert f"1 of {ITEMS + room + 3} items are not served: {NO_ROOM}" in found.summary(pipeline.dataset)
    listed = found.not_served(pipeline.dataset).decode().splitlines()
    assert listed[-1] == f"rare,3,{NO_ROOM}"
    assert len(listed) == 4


def exported(shop: Path) -> tuple[Pipeline, Catalogue, dict[str, bytes]]:
    """Return the finished run, the catalogue of its trained items, and its exported files."""
    pipeline = Pipeline(RunFolder.open(shop / "run"), SilentProgress())
    files = {path.name: path.read_bytes() for path in (shop / "run" / "bundle").iterdir() if path.is_file()}
    return pipeline, trained_catalogue(pipeline), files
