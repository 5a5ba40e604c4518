"""Item vectors come out of one pass over their file as safetensors reads them, with the seal of every byte."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from model_store.bundle import vector_file
from model_store.bundle.manifest import FileSeal
from model_store.bundle.vector_file import HEADER_LIMIT, VectorFile, read_vector_file
from model_store.catalogue.growing_rows import MIN_SPARE_ROWS

WIDTH = 16
OTHERS = {
    "none": {},
    "before": {"a": np.arange(700, dtype=np.float32)},
    "after": {"z": np.arange(700, dtype=np.float32)},
    "both": {"a": np.zeros(3, dtype=np.int8), "z": np.ones((5, 5), dtype=np.float64)},
}


def unit_vectors(items: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(items, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


class Dribble(io.BytesIO):
    """A file that gives fewer bytes than were asked for, as files in a bucket may."""

    def readinto(self, buffer: Any) -> int:
        return super().readinto(memoryview(buffer)[: max(1, len(buffer) // 3)])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_file, "_PIECE", 1000)


def read(data: bytes, limit: int | None = None, file: type[io.BytesIO] = io.BytesIO) -> VectorFile:
    return read_vector_file(file(data), len(data) if limit is None else limit, "vectors", WIDTH)


def with_header(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("file", [io.BytesIO, Dribble])
@pytest.mark.parametrize("items", [0, 1, 100])
def test_vectors_and_seal_are_those_of_the_file(
    others: dict[str, np.ndarray], file: type[io.BytesIO], items: int
) -> None:
    vectors = unit_vectors(items)
    data = safetensors.numpy.save({**others, "vectors": vectors}, metadata={"made": "here"})
    found = read(data, file=file)
    assert (found.problem, found.seal) == ("", FileSeal.of(data))
    assert found.vectors is not None
    np.testing.assert_array_equal(found.vectors.rows, vectors)
    assert not found.vectors.rows.flags.writeable


def test_there_is_room_for_new_items() -> None:
    data = safetensors.numpy.save({"vectors": unit_vectors(100)})
    vectors = read(data).vectors
    assert vectors is not None
    longer = vectors.with_rows(unit_vectors(MIN_SPARE_ROWS))
    assert np.shares_memory(vectors.rows, longer.rows)
    assert vectors.with_room() is vectors


def test_a_file_without_the_tensor_has_no_vectors_but_a_seal() -> None:
    data = safetensors.numpy.save({"embeddings": np.ones((300, 4), dtype=np.float32)})
    assert read(data) == VectorFile(None, "", FileSeal.of(data))


def test_at_most_one_byte_beyond_the_limit_is_read() -> None:
    data = safetensors.numpy.save({"vectors": unit_vectors(100)})
    found = read(data + b"much more", limit=len(data))
    assert found.seal == FileSeal.of(data + b"m")


def spec(**changes: Any) -> dict[str, Any]:
    return {"vectors": {"dtype": "F32", "shape": [2, WIDTH], "data_offsets": [0, 8 * WIDTH]} | changes}


FLAT = bytes(8 * WIDTH)
UNUSABLE = {
    "nothing": (b"", "does not decode: its header"),
    "half a length": (b"\x01\x02", "does not decode: its header"),
    "a long header": (struct.pack("<Q", HEADER_LIMIT + 1) + FLAT, "does not decode: its header says 4194305 bytes"),
    "no JSON": (struct.pack("<Q", 5) + b"{{{{{" + FLAT, "does not decode: its header is not"),
    "deep JSON": (struct.pack("<Q", 200_000) + b"[" * 200_000, "does not decode: its header is not"),
    "a negative offset": (with_header(spec(data_offsets=[-8, 8 * WIDTH - 8]), FLAT), "does not decode: its header"),
    "a negative shape": (with_header(spec(shape=[-2, -WIDTH]), FLAT), "does not decode: its header"),
    "more rows than bytes": (with_header(spec(shape=[3, WIDTH]), FLAT), "does not decode: vectors are cut short"),
    "offsets beyond the end": (
        with_header(spec(shape=[2**40, WIDTH], data_offsets=[0, 2**42 * WIDTH]), FLAT),
        "does not decode: vectors are cut short",
    ),
    "an end before the beginning": (with_header(spec(data_offsets=[8 * WIDTH, 0]), FLAT), "does not decode: vectors"),
    "another type": (with_header(spec(dtype="I32"), FLAT), "vectors are I32 of shape"),
    "another width": (with_header(spec(shape=[1, 2 * WIDTH]), FLAT), "vectors are F32 of shape [1, 32], expected"),
    "no matrix": (with_header(spec(shape=[2 * WIDTH]), FLAT), "vectors are F32 of shape [32]"),
    "vectors of length 0": (with_header(spec(), FLAT), "a row of vectors does not have unit length"),
}


@pytest.mark.parametrize(("data", "problem"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_cannot_be_used_is_told_and_still_hashed_to_its_end(data: bytes, problem: str) -> None:
    found = read(data + b"rest" * 1000)
    assert found.vectors is None
    assert found.problem.startswith(problem)
    assert found.seal == FileSeal.of(data + b"rest" * 1000)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 2.0, 0.0])
@pytest.mark.parametrize("row", [0, 14, 15, 99])
def test_one_wrong_row_is_found_wherever_it_is(row: int, wrong: float) -> None:
    vectors = unit_vectors(100)
    vectors[row] *= np.float32(wrong)
    assert read(safetensors.numpy.save({"vectors": vectors})).problem == "a row of vectors does not have unit length"
