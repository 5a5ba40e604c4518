"""Contents of a bundle: what contradicts the config or each other is refused, whatever the hashes say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy

from model_store.bundle.bundle import check_contents, read_catalogue
from model_store.bundle.golden import goldens_to_json
from model_store.bundle.parts import CODE_NAMES
from model_store.bundle.vector_file import EMBEDDINGS, VECTORS
from model_store.catalogue.code_names import CodeNames
from model_store.errors import BundleRefused
from model_store.search.fusion import Fusion
from tests.support.bundles import (
    bundle_files,
    small_catalogue,
    small_config,
    small_goldens,
)

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
