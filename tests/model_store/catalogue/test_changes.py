"""A catalogue under changes: however they are grouped, it is the one that would be built from scratch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalogue.catalogue import Catalogue, Change, ItemDelete, ItemPut
from model_store.catalogue.resemblances import Resemblances, nothing_known
from model_store.errors import CatalogueError
from model_store.semantic_ids.trie import RuleMask, Trie
from model_store.semantic_ids.trie_growth import grow_trie
from tests.support.bundles import small_catalogue
from tests.support.resemblances import random_records

SIZE, LEVELS, ITEMS, WIDTH = 4, 3, 12, 5
IDS = [f"item-{row}" for row in range(ITEMS)] + [f"new-{row}" for row in range(8)]
CODES = {
    item_id: np.array(np.unravel_index(place, (SIZE,) * LEVELS), dtype=np.int16)
    for item_id, place in zip(IDS, np.random.default_rng(5).permutation(SIZE**LEVELS - 1)[: len(IDS)], strict=True)
}

RECORDS = {
    item_id: random_records(np.random.default_rng(place), ITEMS, 1) for place, item_id in enumerate(IDS, start=1)
}

FREE = np.array([3, 3, 3], dtype=np.int16)


def vector(item_id: str) -> np.ndarray:
    values = np.random.default_rng(len(item_id) + ord(item_id[-1])).normal(size=WIDTH)
    return (values / np.linalg.norm(values)).astype(np.float32)


def trained(has_vectors: bool = False) -> Catalogue:
    ids = IDS[:ITEMS]
    return dataclasses.replace(
        small_catalogue(items=ITEMS, codebook_size=SIZE, levels=LEVELS),
        codes=np.stack([CODES[item_id] for item_id in ids]),
        vectors=np.stack([vector(item_id) for item_id in ids]) if has_vectors else None,
    )


puts = st.builds(
    lambda item_id, title, categories, attributes: ItemPut(
        item_id, title, tuple(categories), attributes, CODES[item_id], vector(item_id), RECORDS[item_id]
    ),
    st.sampled_from(IDS),
    st.text(max_size=4),
    st.lists(st.sampled_from(["category-0", "category-1", "rare", "ß"]), max_size=3, unique=True),
    st.dictionaries(st.sampled_from(["year", "brand"]), st.integers(0, 9) | st.text(max_size=2), max_size=2),
)
changes = st.lists(puts | st.builds(ItemDelete, st.sampled_from(IDS)), max_size=25)


class Model:
    """The definition: one dict an item, changes one at a time."""

    def __init__(self, start: Catalogue) -> None:
        self.start = start
        self.items: dict[str, dict[str, Any]] = {
            item_id: {
                "title": start.titles[row],
                "categories": start.categories[row],
                "attributes": start.attributes[row],
                "hidden": False,
            }
            for item_id, row in start.row_of.items()
        }

    def apply(self, change: Change) -> None:
        if isinstance(change, ItemPut):
            content = {"title": change.title, "categories": change.categories, "attributes": change.attributes}
            self.items[change.item_id] = content | {"hidden": False}
        elif change.item_id in self.items:
            self.items[change.item_id]["hidden"] = True

    def rebuilt(self) -> Catalogue:
        """A catalogue made of plain sequences."""
        ids, columns = list(self.items), list(self.items.values())
        new = len(ids) - len(self.start)
        return Catalogue(
            codebook_size=SIZE,
            item_ids=ids,
            codes=np.stack([CODES[item_id] for item_id in ids]),
            titles=[item["title"] for item in columns],
            categories=[item["categories"] for item in columns],
            attributes=[item["attributes"] for item in columns],
            popularity=np.append(self.start.popularity, np.zeros(new, dtype=np.int64)),
            vectors=None if self.start.vectors is None else np.stack([vector(item_id) for item_id in ids]),
            is_hidden=np.array([item["hidden"] for item in columns]),
            trained=len(self.start),
            resemblances=Resemblances.of(
                len(self.start),
                np.concatenate([nothing_known(0), *(RECORDS[item_id] for item_id in ids[len(self.start) :])]),
            ),
        )


def grouped(sequence: Sequence[Change], cuts: Sequence[int]) -> list[Sequence[Change]]:
    ends = sorted({0, len(sequence), *(cut % (len(sequence) + 1) for cut in cuts)})
    return [sequence[start:end] for start, end in itertools.pairwise(ends)]


def assert_same_trie(found: Trie, expected: Trie) -> None:
    """Compare what is derived from the arrays, too."""
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)
        assert found.arrays()[name].dtype == array.dtype
    assert found.windows == expected.windows
    for one, other in zip(
        (*found.parents, found.item_leaf[:]), (*expected.parents, expected.item_leaf[:]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def assert_same_mask(found: RuleMask, expected: RuleMask) -> None:
    np.testing.assert_array_equal(found.bits, expected.bits)
    for count, wanted in zip(found.open_children, expected.open_children, strict=True):
        np.testing.assert_array_equal(count, wanted)


@settings(max_examples=80, deadline=None)
@given(changes, st.lists(st.integers(0, 100), max_size=6), st.booleans(), st.booleans())
def test_any_changes_in_any_grouping_give_the_catalogue_built_from_scratch(
    sequence: list[Change], cuts: list[int], has_vectors: bool, looks_before: bool
) -> None:
    start = trained(has_vectors)
    model, current = Model(start), start
    if looks_before:  # what was derived before a change is carried over, not stale
        _ = start.by_popularity, start.interactions, start.numbers("year"), start.visible
        _ = start.trie.parents, start.trie.item_leaf, start.trie.windows
    for group in grouped(sequence, cuts):
        for change in group:
            model.apply(change)
        before = current
        current = before.with_changes(group)
        assert list(current.item_ids)[: len(before)] == list(before.item_ids)
    expected = model.rebuilt()
    current.check_integrity()
    assert current.digest() == expected.digest() == start.with_changes(sequence).digest()
    assert current.row_of == {item_id: row for row, item_id in enumerate(expected.item_ids)}
    assert list(current.categories) == list(expected.categories)
    np.testing.assert_array_equal(current.by_popularity, expected.by_popularity)
    assert current.interactions == expected.interactions
    assert_same_trie(current.trie, expected.trie)
    assert_same_mask(current.visible, expected.trie.mask(~expected.is_hidden))
    np.testing.assert_array_equal(current.numbers("year"), expected.numbers("year"))
    assert start.digest() == trained(has_vectors).digest()  # the catalogue before is as it was


@settings(max_examples=40, deadline=None)
@given(changes, st.booleans())
def test_a_snapshot_is_the_whole_catalogue(sequence: list[Change], has_vectors: bool) -> None:
    catalogue = trained(has_vectors).with_changes(sequence)
    copy = Catalogue.from_arrays(catalogue.arrays())
    copy.check_integrity()
    assert copy.digest() == catalogue.digest()
    assert copy.trained == ITEMS
    assert (list(copy.item_ids), list(copy.titles)) == (list(catalogue.item_ids), list(catalogue.titles))
    assert (list(copy.categories), list(copy.attributes)) == (list(catalogue.categories), list(catalogue.attributes))
    np.testing.assert_array_equal(copy.codes, catalogue.codes)
    np.testing.assert_array_equal(copy.is_hidden, catalogue.is_hidden)
    more = [ItemPut("another", "", (), {}, FREE, vector("another"))]
    assert copy.with_changes(more).digest() == catalogue.with_changes(more).digest()


def test_hiding_and_bringing_back_leaves_row_codes_and_trie_alone() -> None:
    catalogue = trained()
    hidden = catalogue.with_changes([ItemDelete("item-3"), ItemDelete("nobody")])
    assert np.flatnonzero(hidden.is_hidden).tolist() == [3]
    assert hidden.trie is catalogue.trie
    back = hidden.with_changes([ItemPut("item-3", "Back", ("x",), {}, np.array([9, 9, 9], dtype=np.int16))])
    assert not back.is_hidden.any()
    assert (back.titles[3], back.categories[3], back.codes[3].tolist()) == ("Back", ("x",), CODES["item-3"].tolist())
    assert catalogue.with_changes([ItemDelete("nobody")]) is catalogue


def new_item(item_id: str, codes: tuple[int, ...]) -> ItemPut:
    return ItemPut(item_id, "", (), {}, np.array(codes, dtype=np.int16), vector(item_id))


def test_revisions_share_the_memory_of_their_vectors_and_forks_do_not_meet() -> None:
    free = sorted(set(np.ndindex((SIZE,) * LEVELS)) - {tuple(codes.tolist()) for codes in CODES.values()})
    start = trained(has_vectors=True)
    one = start.with_changes([new_item("one", free[0])])
    two = one.with_changes([ItemDelete("item-3")]).with_changes([new_item("two", free[1])])
    fork = one.with_changes([new_item("fork", free[2])])
    snapshot = Catalogue.from_arrays(two.arrays())
    further = dataclasses.replace(two, titles=["other"] * len(two)).with_changes([new_item("further", free[2])])
    names = [("one",), ("one", "two"), ("one", "fork"), ("one", "two"), ("one", "two", "further")]
    for catalogue, new in zip((one, two, fork, snapshot, further), names, strict=True):
        expected = np.stack([vector(item_id) for item_id in (*IDS[:ITEMS], *new)])
        np.testing.assert_array_equal(np.asarray(catalogue.vectors), expected)
    assert np.shares_memory(np.asarray(one.vectors), np.asarray(two.vectors))
    for other in (start, fork, further):  # of a catalogue made in any other way the vectors are copied once
        assert not np.shares_memory(np.asarray(one.vectors), np.asarray(other.vectors))


def test_a_catalogue_with_room_is_the_same_and_its_first_new_item_copies_no_vectors() -> None:
    free = sorted(set(np.ndindex((SIZE,) * LEVELS)) - {tuple(codes.tolist()) for codes in CODES.values()})
    start, new = trained(has_vectors=True), [new_item("one", free[0])]
    roomy = start.with_room()
    assert roomy.digest() == start.digest()
    assert not np.shares_memory(np.asarray(roomy.vectors), np.asarray(start.vectors))
    assert np.shares_memory(np.asarray(roomy.with_changes(new).vectors), np.asarray(roomy.vectors))
    assert roomy.with_changes(new).digest() == start.with_changes(new).digest()
    assert roomy.with_room() is roomy


def test_every_part_of_a_catalogue_changes_its_digest() -> None:
    one = trained(has_vectors=True)
    vectors = np.ascontiguousarray(np.asarray(one.vectors)[::-1])
    others = [
        dataclasses.replace(one, **changed)
        for changed in (
            {"item_ids": [*IDS[: ITEMS - 1], "other"]},
            {"codes": one.codes[::-1]},
            {"titles": ["other", *one.titles[1:]]},
            {"categories": [("category-1", "category-0"), *one.categories[1:]]},
            {"attributes": [{"year": 1990.5}, *one.attributes[1:]]},
            {"popularity": one.popularity + 1},
            {"vectors": vectors},
            {"vectors": None},
            {"is_hidden": ~one.is_hidden},
            {"trained": 3},
            {"codebook_size": SIZE + 1},
        )
    ]
    assert len({one.digest(), *(other.digest() for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ([ItemPut("x", "", (), {})], "'x' needs 3 codes, got None"),
        ([ItemPut("x", "", (), {}, FREE[:2])], "needs 3 codes"),
        ([ItemPut("x", "", (), {}, np.array([0, 0, SIZE], dtype=np.int16))], "codes must lie in 0 … 3, found 0 … 4"),
        ([ItemPut("x", "", (), {}, CODES["item-7"])], r"the item in row 7 has the semantic ID \[.*\] already"),
        ([ItemPut("x", "", (), {}, FREE), ItemPut("y", "", (), {}, FREE)], "rows 12 and 13 share the semantic ID"),
        ([ItemPut("", "", (), {}, FREE)], "item id '' must be 1 to 128 bytes"),
        ([ItemPut("ä" * 65, "", (), {}, FREE)], "must be 1 to 128 bytes"),
    ],
)
def test_new_items_that_do_not_fit_are_refused(new: list[ItemPut], message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        trained().with_changes([ItemDelete("item-1"), *new])


def test_new_items_need_a_vector_where_the_others_have_one() -> None:
    with pytest.raises(CatalogueError, match="'x' needs a vector of 5 numbers"):
        trained(has_vectors=True).with_changes([ItemPut("x", "", (), {}, FREE)])
    with pytest.raises(CatalogueError, match="needs a vector of 5 numbers"):
        trained(has_vectors=True).with_changes([ItemPut("x", "", (), {}, FREE, np.ones(4, dtype=np.float32))])


def grown() -> Catalogue:
    return trained().with_changes([ItemPut("new-1", "", (), {}, CODES["new-1"], resemblance=RECORDS["new-1"])])


ARRAYS = sorted(grown().arrays())


@pytest.mark.parametrize("name", ARRAYS)
def test_a_snapshot_that_lacks_an_array_is_refused(name: str) -> None:
    arrays = grown().arrays()
    del arrays[name]
    with pytest.raises(CatalogueError, match="lacks the array"):
        Catalogue.from_arrays(arrays)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_snapshot_with_an_array_cut_short_is_refused(name: str) -> None:
    arrays = grown().arrays()
    with pytest.raises(CatalogueError):
        Catalogue.from_arrays(arrays | {name: arrays[name][:-1]})


@pytest.mark.parametrize(
    "name",
    ["trained", "leaf_item", "child_start_1", "child_code_2", "categories/values", "item_ids/offsets", "first_new"],
)
def test_a_snapshot_whose_arrays_contradict_each_other_is_refused(name: str) -> None:
    arrays = grown().arrays()
    with pytest.raises(CatalogueError):
        Catalogue.from_arrays(arrays | {name: arrays[name] + 3})


@st.composite
def semantic_ids(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    size, levels = draw(st.integers(2, 9)), draw(st.integers(1, 4))
    places = draw(st.lists(st.integers(0, size**levels - 1), min_size=2, max_size=60, unique=True))
    codes = np.stack([np.array(places) // size**level % size for level in range(levels)], axis=1)
    return codes, size, draw(st.integers(1, len(places) - 1))


@settings(max_examples=150, deadline=None)
@given(semantic_ids())
def test_a_grown_trie_is_the_one_built_of_all(world: tuple[np.ndarray, int, int]) -> None:
    codes, size, known = world
    start = Trie.build(codes[:known], size)
    _ = start.parents, start.item_leaf, start.windows  # what is derived grows, too
    found = grow_trie(start, codes[known:]).trie
    found.check_integrity()
    assert_same_trie(found, Trie.build(codes, size))


def test_long_semantic_ids_are_sorted_too() -> None:
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 4096, (500, 7)), axis=0)
    shuffled = codes[rng.permutation(len(codes))]
    trie = Trie.build(shuffled, 4096)
    np.testing.assert_array_equal(shuffled[trie.leaf_item], codes)
    np.testing.assert_array_equal(trie.codes(), shuffled)
    grown = grow_trie(Trie.build(shuffled[:300], 4096), shuffled[300:]).trie
    np.testing.assert_array_equal(grown.leaf_item, trie.leaf_item)
