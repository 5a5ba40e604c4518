"""Parts of a bundle that stand for themselves: they are read, agree with the catalogue, or are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from model_store.bundle.bundle import check_contents
from model_store.bundle.parts import NEIGHBOURS, RANKER, RESEMBLANCES, read_neighbours, read_ranker
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.catalogue.resemblances import Resemblances, nothing_known
from model_store.errors import BundleRefused
from model_store.search.fusion import Fusion
from model_store.search.item_words import ItemWords
from model_store.search.neighbours import Neighbours
from model_store.search.ranker import FEATURES, CandidateFeatures, Ranker
from tests.model_store.bundle.test_bundle_contents import Files, unit_vectors, with_vectors
from tests.support.bundles import NOON, description, small_config
from tests.support.resemblances import random_records


def with_neighbours(items: int) -> Files:
    """A memory in which item 1 is the neighbour of item 0."""
    start = np.repeat([0, 1], [1, items]).astype(np.int64)
    known = Neighbours(start, np.array([1], dtype=np.int32), np.array([0.5], dtype=np.float32), 0.6, items, False)
    return with_vectors(unit_vectors())() | {NEIGHBOURS: safetensors.numpy.save(known.arrays())}


def test_a_memory_of_neighbours_is_read_and_checked() -> None:
    fusion, items = Fusion(weight=2.0, candidates=20, neighbours=0.02), len(unit_vectors())
    for known in (items, items - 2):  # items that the filters left out of training are in the catalogue, too
        files = with_neighbours(known)
        check_contents(files.__getitem__, files, small_config(), fusion)
        memory = read_neighbours(files.__getitem__, files, fusion)
        assert memory is not None
        assert memory.neighbour.tolist() == [1]
    wrong, problem = with_neighbours(items + 1), f"knows {items + 1} items, the catalogue has {items}"
    with pytest.raises(BundleRefused, match=problem):
        check_contents(wrong.__getitem__, wrong, small_config(), fusion)
    without = with_vectors(unit_vectors())()
    with pytest.raises(BundleRefused, match=r"neighbours\.safetensors: missing, which fusion\.neighbours 0\.02 needs"):
        check_contents(without.__getitem__, without, small_config(), fusion)


def with_ranker(items: int, content_dim: int = 0) -> Files:
    """A ranker that corrects nothing, of the first items of the catalogue."""
    width = len(FEATURES)
    reader = CandidateFeatures(np.zeros(items, dtype=np.float32), content_dim, ItemWords.nothing(items))
    one, nothing = np.ones(width, dtype=np.float32), np.zeros((1, width), dtype=np.float32)
    ranker = Ranker(reader, one, one, (nothing,), (np.zeros(1, dtype=np.float32),), untrained=0.0)
    return with_vectors(unit_vectors())() | {RANKER: safetensors.numpy.save(ranker.arrays())}


def test_a_ranker_is_read_and_checked() -> None:
    fusion, items = Fusion(weight=2.0, candidates=20), len(unit_vectors())
    for known in (items, items - 2):
        files = with_ranker(known)
        check_contents(files.__getitem__, files, small_config(), fusion)
        ranker = read_ranker(files.__getitem__, files, small_config())
        assert ranker is not None
        assert ranker.items == known
    for wrong, problem in (
        (with_ranker(items + 1), f"ranker.safetensors: knows {items + 1} items, the catalogue has {items}"),
        (with_ranker(items, content_dim=3), "ranker.safetensors: content_dim is 3, the config says 0"),
        (with_ranker(items) | {RANKER: safetensors.numpy.save({"mean": np.zeros(1)})}, "ranker: 'log_popularity'"),
    ):
        with pytest.raises(BundleRefused, match=problem):
            check_contents(wrong.__getitem__, wrong, small_config(), fusion)
    without = with_vectors(unit_vectors())()
    assert read_ranker(without.__getitem__, without, small_config()) is None


def test_what_untrained_items_resemble_is_read_and_checked() -> None:
    items = len(unit_vectors())
    records = random_records(np.random.default_rng(0), items - 3, 3)
    files = with_vectors(unit_vectors())()
    tensors = Resemblances.of(items - 3, records).arrays()
    whole = files | {RESEMBLANCES: safetensors.numpy.save(tensors)}
    known = check_contents(whole.__getitem__, whole, small_config()).resemblances
    np.testing.assert_array_equal(known.records, records)
    assert (known.first, known.end) == (items - 3, items)
    assert not len(check_contents(files.__getitem__, files, small_config()).resemblances)  # of an earlier release

    for changed, problem in (
        ({"first_new": np.array([items - 2])}, f"resemblances end at row {items + 1}, the catalogue at {items}"),
        ({"share": tensors["share"][:2]}, r"resemblances\.safetensors: share must be"),
    ):
        wrong = files | {RESEMBLANCES: safetensors.numpy.save(tensors | changed)}
        with pytest.raises(BundleRefused, match=problem):
            check_contents(wrong.__getitem__, wrong, small_config())


def test_what_others_know_is_no_new_item() -> None:
    items, fusion = len(unit_vectors()), Fusion(weight=2.0, candidates=20, neighbours=0.02)
    tensors = Resemblances.of(items - 3, nothing_known(3)).arrays()
    files = with_neighbours(items - 2) | {RESEMBLANCES: safetensors.numpy.save(tensors)}
    problem = rf"first_new is {items - 3}, but neighbours\.safetensors knows {items - 2} items"
    with pytest.raises(BundleRefused, match=problem):
        check_contents(files.__getitem__, files, small_config(), fusion)


def test_a_bundle_gives_its_vectors_and_neighbours(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    files = with_neighbours(len(unit_vectors()))
    told = description().model_copy(update={"fusion": Fusion(weight=2.0, candidates=20, neighbours=0.02)})
    bundle = store.bundle(publish(store, files, told, NOON))
    vectors = bundle.vectors()
    assert vectors is not None
    np.testing.assert_array_equal(vectors.rows, unit_vectors())
    memory = bundle.neighbours()
    assert memory is not None
    assert memory.neighbour.tolist() == [1]
