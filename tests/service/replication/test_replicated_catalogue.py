"""Changes move a catalogue on: deterministic, whatever their grouping, and given back whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import CatalogueError, ItemRefused
from model_store.new_items.item_encoder import ItemEncoder
from service.replication.catalogue_source import CatalogueSource
from service.replication.replicated_catalogue import ReplicatedCatalogue, recover_changes
from service.schemas.items import MAX_PAYLOAD_BYTES, BulkItem, ItemBody, StoredItem, delete_change, read_payload
from service.store.change_stream import START, ItemChange, Position, RawChange
from tests.support.bundles import publish_small, small_catalogue
from tests.support.encodable_bundles import WIDTH, encodable_bundle
from tests.support.hash_coder import HashCoder

IDS = [f"item-{n}" for n in range(36, 40)] + [f"new-{n}" for n in range(8)] + ["é/ü"]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> CatalogueSource:
    store = ModelStore(tmp_path_factory.mktemp("store"))
    return CatalogueSource(store.bundle(publish_small(store)), HashCoder())


def begun(items: CatalogueSource, catalogue: Catalogue | None = None) -> ReplicatedCatalogue:
    return ReplicatedCatalogue(items, small_catalogue() if catalogue is None else catalogue)


def numbered(raw: list[RawChange], first: int = 1) -> list[ItemChange]:
    return [ItemChange(Position(at), *change) for at, change in enumerate(raw, start=first)]


def put(item_id: str, title: str = "A title", **fields: object) -> RawChange:
    return ItemBody.model_validate({"title": title, **fields}).change(item_id)


def after(replica: ReplicatedCatalogue, raw: list[RawChange]) -> ReplicatedCatalogue:
    changes = numbered(raw, replica.at.revision + 1)
    return replica.apply(changes, changes[-1].at).replica


changes_of = st.lists(
    st.one_of(
        st.builds(put, st.sampled_from(IDS), st.sampled_from(["a", "b", "refused"])),
        st.builds(delete_change, st.sampled_from(IDS)),
        st.builds(RawChange, st.sampled_from(IDS), st.just("put"), st.sampled_from([b"", b"[]", b'{"x":1}', b"\xff"])),
        st.just(RawChange("-", "restart", b"")),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(raw=changes_of, cuts=st.lists(st.integers(0, 40), max_size=5))
def test_the_grouping_of_changes_changes_nothing(items: CatalogueSource, raw: list[RawChange], cuts: list[int]) -> None:
    changes = numbered(raw)
    whole = begun(items).apply(changes, changes[-1].at)
    parts, refused = begun(items), 0
    bounds = sorted({0, len(changes), *(min(cut, len(changes)) for cut in cuts)})
    for start, end in pairwise(bounds):
        parts, lost = parts.apply(changes[start:end], changes[end - 1].at)
        refused += lost
    assert parts.catalogue.digest() == whole.replica.catalogue.digest()
    assert (parts.at, refused) == (whole.replica.at, whole.refused)
    whole.replica.catalogue.check_integrity()


def test_a_new_item_has_codes_and_no_update_changes_them(items: CatalogueSource) -> None:
    replica = after(
        begun(items), [put("new", "first"), put("new", "second"), put("item-3", "renamed", categories=["x"])]
    )
    catalogue = replica.catalogue
    row, known = catalogue.row("new"), catalogue.row("item-3")
    assert row == 40
    assert known == 3
    assert (catalogue.titles[row], catalogue.titles[known]) == ("second", "renamed")
    assert np.array_equal(catalogue.codes[known], small_catalogue().codes[3])
    first_only = after(begun(items), [put("new", "first")]).catalogue
    assert np.array_equal(catalogue.codes[row], first_only.codes[40])


def test_what_is_left_out_of_a_put_is_empty_afterwards(items: CatalogueSource) -> None:
    catalogue = after(begun(items), [StoredItem().change("item-3")]).catalogue
    assert (catalogue.titles[3], catalogue.categories[3], catalogue.attributes[3]) == ("", (), {})


def test_a_full_catalogue_refuses_new_items_and_takes_the_rest(items: CatalogueSource) -> None:
    room = 8**3 - 40
    replica = after(begun(items), [put(f"n{n}") for n in range(room)])
    assert (begun(items).room, replica.room) == (room, 0)
    more = numbered([put("one more"), put("item-3", "renamed"), delete_change("n5")], replica.at.revision + 1)
    moved = replica.apply(more, more[-1].at)
    assert moved.refused == 1
    assert moved.replica.catalogue.row("one more") is None
    assert moved.replica.catalogue.titles[3] == "renamed"
    assert moved.replica.catalogue.is_hidden[moved.replica.catalogue.row("n5")]
    assert moved.replica.room == 0


def test_vectors_come_with_new_items(items: CatalogueSource) -> None:
    with_vectors = replace(small_catalogue(), vectors=np.full((40, 4), 0.5, dtype=np.float32))
    grown = after(begun(items, with_vectors), [put("new")]).catalogue
    assert grown.vectors is not None
    assert grown.vectors.shape == (41, 4)
    assert np.linalg.norm(grown.vectors[40]) == pytest.approx(1)


def test_what_a_new_item_resembles_is_what_the_coder_found(items: CatalogueSource) -> None:
    grown = after(begun(items), [put("new", "first"), put("new", "second"), put("other")]).catalogue
    [encoded] = items.encode([StoredItem(title="first")])
    assert not isinstance(encoded, ItemRefused)
    assert encoded.resemblance["share"].any()
    known = grown.resemblances
    assert (known.first, known.end) == (40, 42)
    np.testing.assert_array_equal(known.records[:1], encoded.resemblance)  # as the vector, it is that of the first put
    hidden = after(begun(items), [put("new", "first"), delete_change("new")]).catalogue
    assert hidden.resemblances.is_hidden.tolist() == [True]


def test_an_item_encoded_ahead_is_not_encoded_again(items: CatalogueSource) -> None:
    coder = HashCoder()
    fresh = CatalogueSource(items.bundle, coder)
    body = ItemBody(title="x", categories=["b", "a", "b"], attributes={"year": 1999})
    [encoded] = fresh.encode([body])
    assert not isinstance(encoded, ItemRefused)
    fresh.precomputed.put(body.payload(), encoded)
    replica = after(begun(fresh), [body.change("new")])
    assert coder.encoded == 1
    again = after(begun(CatalogueSource(items.bundle, HashCoder())), [body.change("new")])
    assert replica.catalogue.digest() == again.catalogue.digest()
    assert fresh.precomputed.take(body.payload()) is None


def test_items_that_say_the_same_are_encoded_once_and_placed_apart(items: CatalogueSource) -> None:
    coder, body = HashCoder(), ItemBody(title="twin")
    fresh = CatalogueSource(items.bundle, coder)
    refused = ItemBody(title="refused").change("no")
    catalogue = after(begun(fresh), [body.change("one"), refused, body.change("other"), body.change("one")]).catalogue
    assert coder.encoded == 1
    rows = catalogue.rows(["one", "other"])
    assert len({tuple(codes) for codes in catalogue.codes[rows].tolist()}) == 2
    assert catalogue.row("no") is None


def test_a_snapshot_comes_back_whole_and_belongs_to_its_version(items: CatalogueSource, tmp_path: Path) -> None:
    replica = after(begun(items), [put("new"), delete_change("item-5")])
    back = ReplicatedCatalogue.from_snapshot(items, replica.to_snapshot(), None)
    assert (back.at, back.catalogue.digest()) == (replica.at, replica.catalogue.digest())
    store = ModelStore(tmp_path)
    other = CatalogueSource(store.bundle(publish_small(store, seed=1)), HashCoder())
    with pytest.raises(CatalogueError, match="version"):
        ReplicatedCatalogue.from_snapshot(other, replica.to_snapshot(), None)


@pytest.mark.parametrize("added", [0, 2])
def test_a_snapshot_leaves_the_vectors_of_trained_items_to_the_bundle(tmp_path: Path, added: int) -> None:
    bundle = encodable_bundle(tmp_path)
    items = CatalogueSource(bundle, ItemEncoder.open(bundle))
    raw = [put(f"new-{number}", categories=["category-1"]) for number in range(added)]
    replica = after(begun(items, bundle.catalogue()), [*raw, delete_change("item-5")])
    snapshot = replica.to_snapshot()
    assert "vectors" not in snapshot.arrays
    assert snapshot.arrays["live_vectors"].shape == (added, WIDTH)
    back = ReplicatedCatalogue.from_snapshot(items, snapshot, bundle.vectors())
    assert back.catalogue.digest() == replica.catalogue.digest()
    more = [put("more", categories=["category-0"])]
    assert after(back, more).catalogue.digest() == after(replica, more).catalogue.digest()
    for wrong in (np.zeros((added, WIDTH + 1), dtype=np.float32), np.zeros((added + 1, WIDTH), dtype=np.float32)):
        damaged = replace(snapshot, arrays={**snapshot.arrays, "live_vectors": wrong})
        with pytest.raises(CatalogueError):
            ReplicatedCatalogue.from_snapshot(items, damaged, bundle.vectors())
    rest = {name: array for name, array in snapshot.arrays.items() if name != "live_vectors"}
    with pytest.raises(CatalogueError, match="vectors"):
        ReplicatedCatalogue.from_snapshot(items, replace(snapshot, arrays=rest), bundle.vectors())


def test_raw_changes_lead_back_to_the_same_items(items: CatalogueSource) -> None:
    replica = after(
        begun(items),
        [
            put("new-1", "one", categories=["x"], attributes={"a": [1, None, {"b": True}]}),
            put("gone"),
            put("item-7", "renamed", attributes="some text"),
            delete_change("item-5"),
            delete_change("gone"),
            put("new-2", "two"),
        ],
    )
    raw = list(recover_changes(replica, small_catalogue()))
    assert [change.item_id for change in raw] == ["item-5", "item-7", "new-1", "gone", "new-2"]
    again = after(begun(items), raw).catalogue
    for item_id in ("item-5", "item-7", "new-1", "gone", "new-2"):
        row, other = replica.catalogue.row(item_id), again.row(item_id)
        assert row is not None
        assert other is not None
        assert replica.catalogue.titles[row] == again.titles[other]
        assert replica.catalogue.categories[row] == again.categories[other]
        assert replica.catalogue.attributes[row] == again.attributes[other]
        assert replica.catalogue.is_hidden[row] == again.is_hidden[other]
    assert again.titles[len(again) - 2] == "A title"
    assert list(recover_changes(begun(items), small_catalogue())) == []


def test_a_deleted_item_comes_with_its_content_and_can_come_back(items: CatalogueSource) -> None:
    content = put("new", "kept", categories=["x"]).payload
    changes = [delete_change("new", content), delete_change("item-5", content), delete_change("item-6")]
    changes += [delete_change("lost"), delete_change("refused", put("refused", "refused").payload)]
    replica, refused = begun(items).apply(numbered(changes), Position(len(changes)))
    catalogue = replica.catalogue
    assert refused == 1
    assert [catalogue.row(item_id) for item_id in ("new", "lost", "refused")] == [40, None, None]
    for row in (40, 5):
        assert catalogue.is_hidden[row]
        assert (catalogue.titles[row], catalogue.categories[row]) == ("kept", ("x",))
    assert catalogue.is_hidden[6]
    assert catalogue.titles[6] == small_catalogue().titles[6]

    back = after(replica, [replica.stored_item(40).change("new")]).catalogue
    assert not back.is_hidden[40]
    assert back.codes[40].tolist() == catalogue.codes[40].tolist()


def test_payloads_are_canonical_and_bounded() -> None:
    body = ItemBody.model_validate_json('{"title":"ü","attributes":{"b":1,"a":[1.5]},"categories":["x"]}', strict=True)
    assert read_payload(body.payload()) == StoredItem.model_validate(body.model_dump())
    assert StoredItem().payload() == b"{}"
    line = BulkItem.model_validate_json(b'{"item_id":"i","title":"t"}', strict=True)
    assert line.bulk_change == ItemBody(title="t").change("i")
    largest = ItemBody(embedding=[-1.2345678901234567e-300] * 2000)
    assert len(largest.payload()) < MAX_PAYLOAD_BYTES
    assert read_payload(b'{"title":1}') is None


def test_the_start_has_no_changes(items: CatalogueSource) -> None:
    assert begun(items).at == START
    moved = begun(items).apply([ItemChange(Position(1, 5), "-", "restart", b"")], Position(1, 5))
    assert moved.replica.catalogue is not None
    assert (moved.replica.at, moved.refused) == (Position(1, 5), 0)
