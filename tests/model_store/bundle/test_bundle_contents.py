"""Contents of a bundle: what contradicts the config or each other is refused, whatever the hashes say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from model_store.bundle.bundle import (
    CODE_NAMES,
    NEIGHBOURS,
    RANKER,
    RESEMBLANCES,
    check_contents,
    read_catalogue,
    read_neighbours,
    read_ranker,
)
from model_store.bundle.golden import goldens_to_json
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.bundle.vector_file import EMBEDDINGS, VECTORS
from model_store.catalogue.code_names import CodeNames
from model_store.catalogue.resemblances import Resemblances
from model_store.errors import BundleRefused
from model_store.search.fusion import Fusion
from model_store.search.item_words import ItemWords
from model_store.search.neighbours import Neighbours
from model_store.search.ranker import FEATURES, CandidateFeatures, Ranker
from tests.support.bundles import (
    NOON,
    bundle_files,
    description,
    small_catalogue,
    small_config,
    small_goldens,
)
from tests.support.resemblances import random_records

Files = dict[str, bytes]


def with_catalogue(**changes: int) -> Callable[[], Files]:
    return lambda: bundle_files() | {"catalogue.parquet": small_catalogue(**changes).to_parquet()}


def with_vectors(vectors: np.ndarray) -> Callable[[], Files]:
    """Content with such item vectors."""
    return lambda: bundle_files() | {EMBEDDINGS: safetensors.numpy.save({VECTORS: vectors})}


def unit_vectors(items: int = 40, width: int = 256) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(items, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def with_collision() -> Files:
    catalogue = small_catalogue()
    catalogue.codes[1] = catalogue.codes[0]
    return bundle_files() | {"catalogue.parquet": catalogue.to_parquet()}


CONTRADICTIONS: dict[str, tuple[Callable[[], Files], str]] = {
    "two items share a semantic ID": (with_collision, "catalogue.parquet: items in rows 0 and 1 share"),
    "more codes than the config": (with_catalogue(levels=4), "catalogue.parquet: items have 4 codes"),
    "another code range": (with_catalogue(codebook_size=16), "catalogue.parquet: codes range to 16"),
    "no catalogue": (lambda: bundle_files() | {"catalogue.parquet": b"PAR1"}, "catalogue.parquet: "),
    "unknown golden item": (
        lambda: bundle_files() | {"golden.json": goldens_to_json(small_goldens(small_catalogue(items=80), count=20))},
        "golden.json: golden 0 names 'item-",
    ),
    "no goldens": (lambda: bundle_files() | {"golden.json": b"[]"}, "golden.json: "),
    "no tensors": (lambda: bundle_files() | {"weights.safetensors": safetensors.numpy.save({})}, "weights.safetensors"),
    "a pickle": (lambda: bundle_files() | {"weights.safetensors": b"\x80\x04N."}, "weights.safetensors: does not"),
    "embeddings": (lambda: bundle_files() | {"embeddings.safetensors": b"{}" * 9}, "embeddings.safetensors: does not"),
    "vectors of other items": (with_vectors(unit_vectors(39)), "catalogue.parquet: catalogue columns differ in length"),
    "vectors of another width": (with_vectors(unit_vectors(width=8)), "embeddings.safetensors: vectors are F32 of"),
    "vectors of another type": (with_vectors(unit_vectors().astype(np.float64)), "embeddings.safetensors: vectors are"),
    "vectors of any length": (
        with_vectors(2 * unit_vectors()),
        "embeddings.safetensors: a row of vectors does not",
    ),
    "vectors that are NaN": (with_vectors(unit_vectors() * np.float32("nan")), "embeddings.safetensors: a row of vect"),
    "names of other prefixes": (
        lambda: bundle_files() | {CODE_NAMES: CodeNames.of(np.array([[7, 7]]), ["Drama"]).to_parquet()},
        "code_names.parquet: the prefix 7-7 has a name, but no items below it",
    ),
    "no names": (lambda: bundle_files() | {CODE_NAMES: b"PAR1"}, "code_names.parquet: does not decode"),
    "no graph": (lambda: bundle_files() | {"search.onnx": b""}, "search.onnx: holds no graph"),
}


@pytest.mark.parametrize(("make", "problem"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_contents_that_contradict_are_refused(make: Callable[[], Files], problem: str) -> None:
    files = make()
    with pytest.raises(BundleRefused) as caught:
        check_contents(files.__getitem__, files, small_config())
    assert str(caught.value).startswith(problem)


def test_vectors_come_with_the_catalogue_and_fused_answers_need_them() -> None:
    fusion, files = Fusion(weight=2.0, candidates=20), with_vectors(unit_vectors())()
    check_contents(files.__getitem__, files, small_config(), fusion)
    catalogue = read_catalogue(files.__getitem__, files, small_config(), fusion)
    np.testing.assert_array_equal(catalogue.vectors, unit_vectors())
    without = bundle_files()
    assert read_catalogue(without.__getitem__, without, small_config()).vectors is None
    with pytest.raises(BundleRefused, match=r"embeddings\.safetensors: lacks vectors"):
        check_contents(without.__getitem__, without, small_config(), fusion)
    shape = small_config().recommender.model_copy(update={"history_tokens": "vector"})
    reader = small_config().model_copy(update={"recommender": shape})
    with pytest.raises(BundleRefused, match=r"embeddings\.safetensors: lacks vectors, which history_tokens"):
        check_contents(without.__getitem__, without, reader)


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
        ({"share": tensors["share"][:2]}, "resemblances: share must be"),
    ):
        wrong = files | {RESEMBLANCES: safetensors.numpy.save(tensors | changed)}
        with pytest.raises(BundleRefused, match=problem):
            check_contents(wrong.__getitem__, wrong, small_config())


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
