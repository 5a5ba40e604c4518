"""Item vectors of a bundle: read, hashed and checked in one pass over their file, the largest of a version.

The vectors are read to where they stay, with room for those of new items, so that none of their gigabytes is copied
afterwards. While a piece is read and its lengths are checked, another thread hashes the piece before it. Nothing may be
used until the caller has compared the seal.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from model_store.bundle.manifest import REFUSED_HINT, FileSeal
from model_store.catalogue.growing_rows import GrowingRows
from model_store.config import ModelConfig
from model_store.errors import BundleRefused
from model_store.search.fusion import Fusion

EMBEDDINGS = "embeddings.safetensors"
VECTORS = "vectors"
"""Tensor of :data:`EMBEDDINGS` with the unit-length item vectors of dense scores."""

HEADER_LIMIT = 4 << 20
"""Size of the largest header of a safetensors file, in bytes; a tensor takes about a hundred."""

UNIT_TOLERANCE = 1e-3
"""Largest deviation of a vector's length from 1."""

_PIECE = 4 << 20
"""Bytes that are read and hashed at a time."""

_Count = Annotated[int, Field(ge=0)]


class _TensorSpec(BaseModel):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[_Count]
    data_offsets: tuple[_Count, _Count]
    """First byte and the byte after the last one, counted from the end of the header."""


_HEADER = TypeAdapter(dict[str, _TensorSpec | dict[str, str]])


class VectorFile(NamedTuple):
    """What a file of vectors holds."""

    vectors: GrowingRows | None  # [items, width], unit length; None if the file has no such tensor
    problem: str  # why the vectors cannot be used; "" if they can
    seal: FileSeal  # of the bytes that were read


def read_vector_file(file: BinaryIO, limit: int, tensor: str, width: int) -> VectorFile:
    """Read one tensor of a safetensors file and hash the whole file.

    Args:
        file: At its beginning.
        limit: Size that the file should have, in bytes; at most one byte more is read.
        tensor: Name of the tensor, float32 ``[items, width]``, each row of unit length.
        width: Length of a row.
    """
    vectors = None
    problem = ""
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as hasher:
        pieces = _HashedPieces(file, limit + 1, hasher)
        try:
            vectors = _read_vectors(pieces, tensor, width)
        except ValueError as cause:
            problem = str(cause)
        while pieces.read(_PIECE):
            pass
        return VectorFile(vectors, problem, pieces.seal())


def check_vectors(found: VectorFile, config: ModelConfig, fusion: Fusion) -> GrowingRows | None:
    """Return the item vectors ``[items, d_s]`` of histories and dense scores; ``None`` if there are none.

    Raises:
        BundleRefused: The model needs vectors and there are none, or they are of another type, shape or length.
    """
    if found.problem:
        raise BundleRefused(f"{EMBEDDINGS}: {found.problem}", REFUSED_HINT)
    if found.vectors is None:
        _check_vectors_unused(config, fusion)
    return found.vectors


def _check_vectors_unused(config: ModelConfig, fusion: Fusion) -> None:
    """Raise :class:`BundleRefused` if a model without item vectors needs them."""
    if fusion.weight:
        raise BundleRefused(f"{EMBEDDINGS}: lacks {VECTORS}, which fusion.weight {fusion.weight} needs", REFUSED_HINT)
    if config.recommender.history_tokens == "vector":
        raise BundleRefused(f"{EMBEDDINGS}: lacks {VECTORS}, which history_tokens 'vector' needs", REFUSED_HINT)


def _read_vectors(pieces: _HashedPieces, tensor: str, width: int) -> GrowingRows | None:
    """Read the header and the tensor that it names; raise ``ValueError`` with what is wrong."""
    size = int.from_bytes(pieces.read(8), "little")
    if size > HEADER_LIMIT:
        raise ValueError(f"does not decode: its header says {size} bytes, at most {HEADER_LIMIT} are allowed")
    try:
        spec = _HEADER.validate_json(pieces.read(size)).get(tensor)
    except ValidationError as cause:
        raise ValueError("does not decode: its header is not that of a safetensors file") from cause
    if not isinstance(spec, _TensorSpec):
        return None

    if spec.dtype != "F32" or len(spec.shape) != 2 or spec.shape[1] != width:
        raise ValueError(f"{tensor} are {spec.dtype} of shape {spec.shape}, expected F32 [items, {width}]")
    begin, end = spec.data_offsets
    rows = spec.shape[0]
    if end - begin != rows * width * 4 or end > pieces.left:
        raise ValueError(f"does not decode: {tensor} are cut short")

    pieces.skip(begin)
    return GrowingRows.written(rows, (width,), np.float32, lambda memory: _fill(memory, pieces, tensor))


def _fill(memory: npt.NDArray[Any], pieces: _HashedPieces, tensor: str) -> None:
    """Read the rows ``[items, width]`` and check their lengths while they are in the processor's cache."""
    step = max(1, _PIECE // max(1, memory.strides[0]))
    for start in range(0, len(memory), step):
        rows = memory[start : start + step]
        if pieces.read_into(rows.reshape(-1).view(np.uint8).data) < rows.nbytes:
            raise ValueError(f"does not decode: {tensor} are cut short")
        length = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        if not (np.abs(length - 1) < UNIT_TOLERANCE).all():  # negated, so that NaN is refused too
            raise ValueError(f"a row of {tensor} does not have unit length")


class _HashedPieces:
    """A file that is read piece by piece; a thread hashes each piece while the next one is read.

    Args:
        file: At its beginning.
        most: Most bytes that are read.
        hasher: Executor with one thread.
    """

    def __init__(self, file: BinaryIO, most: int, hasher: ThreadPoolExecutor) -> None:
        self._file: Any = file  # BinaryIO lacks readinto
        self._most = most
        self._hasher = hasher
        self._sha256 = hashlib.sha256()
        self._hashing: Future[None] | None = None
        self._size = 0

    @property
    def left(self) -> int:
        """Bytes that may still be read."""
        return self._most - self._size

    def read_into(self, target: memoryview) -> int:
        """Fill memory that must not change before :meth:`seal`; return the bytes read, fewer at the end of the file."""
        wanted = min(len(target), self.left)
        filled = 0
        while filled < wanted:
            count = self._file.readinto(target[filled:wanted])
            if not count:
                break
            filled += count

        if self._hashing is not None:
            self._hashing.result()
        self._hashing = self._hasher.submit(self._sha256.update, target[:filled])
        self._size += filled
        return filled

    def read(self, size: int) -> bytearray:
        """Return the next bytes, fewer at the end of the file."""
        piece = bytearray(min(size, self.left))
        return piece[: self.read_into(memoryview(piece))]

    def skip(self, size: int) -> None:
        """Read bytes that nobody needs but the hash."""
        while size > 0 and (piece := self.read(min(size, _PIECE))):
            size -= len(piece)

    def seal(self) -> FileSeal:
        """Return the seal of what was read."""
        if self._hashing is not None:
            self._hashing.result()
        return FileSeal(sha256=self._sha256.hexdigest(), size=self._size)
