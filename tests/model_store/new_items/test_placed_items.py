"""Many items placed by their content: the same as one by one, in parts of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_store.bundle.bundle import Bundle
from model_store.new_items import placed_items
from model_store.new_items.item_encoder import ItemEncoder
from model_store.new_items.placed_items import place_items
from model_store.replication.item_payload import ItemContent
from tests.support.encodable_bundles import SHAPE, encodable_bundle

CONTENTS = [ItemContent("Title", (f"category-{n % 2}",), {"year": 1990 + n % 7}) for n in range(30)]
NEW = [(f"new-{n}", content) for n, content in enumerate(CONTENTS)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return encodable_bundle(tmp_path_factory.mktemp("store"))


def test_the_parts_do_not_matter(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ItemEncoder.open(bundle)
    whole = place_items(bundle.catalogue(), encoder, NEW)
    monkeypatch.setattr(placed_items, "PART", 7)
    parts = place_items(bundle.catalogue(), encoder, iter(NEW))
    assert whole.left_out == parts.left_out == []
    assert whole.catalogue.digest() == parts.catalogue.digest()

    catalogue = whole.catalogue
    catalogue.check_integrity()
    assert list(catalogue.item_ids)[catalogue.trained :] == [name for name, _ in NEW]
    row = catalogue.row_of["new-3"]
    assert (catalogue.titles[row], catalogue.categories[row], catalogue.attributes[row]) == CONTENTS[3]
    assert catalogue.vectors is not None
    np.testing.assert_array_equal(catalogue.vectors[row], encoder.encode(*CONTENTS[3]).vector)


def test_items_without_room_are_left_out(bundle: Bundle) -> None:
    room = SHAPE.codebook_size**SHAPE.levels - len(bundle.catalogue())
    many = [(f"new-{n}", CONTENTS[n % len(CONTENTS)]) for n in range(room + 3)]
    found = place_items(bundle.catalogue(), ItemEncoder.open(bundle), many)
    assert len(found.catalogue) == room + len(bundle.catalogue())
    assert found.left_out == [f"new-{n}" for n in range(room, room + 3)]


def test_a_model_that_knows_no_content_places_nothing(tmp_path: Path) -> None:
    bare = encodable_bundle(tmp_path, has_content=False)
    found = place_items(bare.catalogue(), ItemEncoder.open(bare), NEW[:2])
    assert found.left_out == ["new-0", "new-1"]
    assert len(found.catalogue) == len(bare.catalogue())
