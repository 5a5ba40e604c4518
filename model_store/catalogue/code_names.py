"""Names of code prefixes, from what the items below them say, and their table ``code_names.parquet``.

Training chooses the names at export. They belong to a version: items that are put, hidden or deleted later do not
change them. A prefix of which nothing is true that is worth saying has no name, and neither has a whole semantic ID.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model_store.catalogue.bounded_parquet import read_bounded
from model_store.catalogue.packed import PackedStrings, arrow_lengths
from model_store.errors import CatalogueError

NAME_LENGTH = 240
"""Most characters of a name."""

Codes = npt.NDArray[np.integer[Any]]

_COLUMNS = pa.schema(
    [
        pa.field("prefix", pa.large_list(pa.int16()), nullable=False),
        pa.field("name", pa.large_string(), nullable=False),
    ]
)

_UNPRINTABLE = r"[\p{Cc}\p{Zl}\p{Zp}]"


@dataclass(frozen=True, eq=False)
class CodeNames:
    """Names of n prefixes, packed: a catalogue of a million items has hundreds of thousands.

    Attributes:
        prefixes: ``[n, D]`` int16, shorter prefixes end in -1. They ascend, a prefix before those that continue it.
        names: ``[n]``.

    Raises:
        CatalogueError: The columns do not describe names of prefixes.
    """

    prefixes: npt.NDArray[np.int16]
    names: PackedStrings

    def __post_init__(self) -> None:
        self._check_prefixes()
        self._check_names()

    @classmethod
    def of(cls, prefixes: Codes, names: Sequence[str]) -> Self:
        """Sort and pack names.

        Args:
            prefixes: ``[n, D]`` in any order, each once; shorter prefixes end in -1.
            names: ``[n]``.
        """
        order = np.argsort(_keys(prefixes, prefixes.shape[1]), kind="stable")
        return cls(prefixes[order].astype(np.int16), PackedStrings.of(names).take(order))

    @classmethod
    def none(cls) -> Self:
        """Return no names at all."""
        return cls(np.empty((0, 1), dtype=np.int16), PackedStrings.of([]))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def depths(self) -> npt.NDArray[np.int64]:
        """Number of codes of each named prefix, ``[n]``."""
        depths: npt.NDArray[np.int64] = (self.prefixes >= 0).sum(axis=1)
        return depths

    def name(self, prefix: Sequence[int]) -> str | None:
        """Return the name of a prefix of the catalogue; ``None`` if it has none."""
        return self.find(np.array([prefix]))[0]

    def find(self, prefixes: Codes) -> list[str | None]:
        """Return the names of m prefixes of the catalogue, ``[m, depth]``; ``None`` where one has none."""
        depth = prefixes.shape[1]
        width = self.prefixes.shape[1]
        if not len(self) or depth > width:
            return [None] * len(prefixes)

        wanted = _keys(prefixes, width)
        places = np.minimum(np.searchsorted(self._sorted_keys, wanted), len(self) - 1)
        is_found = self._sorted_keys[places] == wanted
        pairs = zip(places.tolist(), is_found.tolist(), strict=True)
        return [self.names[place] if found else None for place, found in pairs]

    def check_fit(self, codes: Codes) -> None:
        """Raise :class:`CatalogueError` unless every named prefix begins a longer semantic ID of ``codes [items, L]``.

        The message names the first prefix that does not.
        """
        depths = self.depths
        for depth in np.unique(depths).tolist():
            named = self.prefixes[depths == depth, :depth]
            is_known = np.zeros(len(named), dtype=np.bool_)
            if depth < codes.shape[1]:
                is_known = np.isin(_keys(named, depth), _keys(codes[:, :depth], depth))
            if not is_known.all():
                prefix = "-".join(map(str, named[int(np.argmin(is_known))].tolist()))
                raise CatalogueError(f"the prefix {prefix} has a name, but no items below it")

    def to_parquet(self) -> bytes:
        """Serialise as ``code_names.parquet``. Equal names give equal bytes."""
        offsets = np.concatenate([[0], np.cumsum(self.depths)]).astype(np.int64)
        flat = pa.array(self.prefixes[self.prefixes >= 0])
        columns = [pa.LargeListArray.from_arrays(pa.array(offsets), flat), self.names.to_arrow()]
        sink = io.BytesIO()
        pq.write_table(pa.table(columns, schema=_COLUMNS), sink, compression="zstd", use_dictionary=["name"])
        return sink.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> Self:
        """Read and check the output of :meth:`to_parquet`.

        Raises:
            CatalogueError: The bytes are not such a table, or it holds what cannot be names of prefixes.
        """
        try:
            # The cast refuses nulls, missing columns, and codes beyond 16 bits.
            table = read_bounded(data, _COLUMNS.names).select(_COLUMNS.names).cast(_COLUMNS)
            names = PackedStrings.from_arrow(table["name"])
            lists = table["prefix"].combine_chunks()
            flat = lists.flatten()
            if flat.null_count or pc.any(pc.less(flat, 0)).as_py():
                raise ValueError("a code is null or below 0")
        except (pa.ArrowException, KeyError, ValueError, TypeError) as cause:
            raise CatalogueError(f"does not decode: {cause}") from cause

        lengths = arrow_lengths(lists)
        if not len(lengths):
            return cls.none()
        prefixes = np.full((len(lengths), max(1, int(lengths.max()))), -1, dtype=np.int16)
        prefixes[np.arange(prefixes.shape[1]) < lengths[:, None]] = flat.to_numpy()
        return cls(prefixes, names)

    @cached_property
    def _sorted_keys(self) -> npt.NDArray[np.bytes_]:
        return _keys(self.prefixes, self.prefixes.shape[1])

    def _check_prefixes(self) -> None:
        if len(self.prefixes) != len(self.names):
            raise CatalogueError(f"{len(self.prefixes)} prefixes have {len(self.names)} names")
        is_code = self.prefixes >= 0
        if not is_code[:, 0].all() or (is_code[:, 1:] & ~is_code[:, :-1]).any() or self.prefixes.min(initial=0) < -1:
            raise CatalogueError("a prefix must hold at least one code, and none below 0")
        if not (self._sorted_keys[1:] > self._sorted_keys[:-1]).all():
            raise CatalogueError("prefixes must ascend, each once")

    def _check_names(self) -> None:
        self.names.check_integrity("names")
        column = self.names.to_arrow()
        length = pc.utf8_length(column).to_numpy(zero_copy_only=False)
        if not ((length >= 1) & (length <= NAME_LENGTH)).all():
            raise CatalogueError(f"a name must be 1 to {NAME_LENGTH} characters long")
        if pc.any(pc.match_substring_regex(column, _UNPRINTABLE)).as_py():
            raise CatalogueError("a name holds a control character or a line break")


def _keys(prefixes: Codes, width: int) -> npt.NDArray[np.bytes_]:
    """Return prefixes ``[n, depth]`` as bytes that sort like them, ``[n]``; codes are below 2^15.

    Codes count from 1 here: NumPy takes zeros at the end of bytes for padding.
    """
    padded = np.zeros((len(prefixes), width), dtype=">u2")
    padded[:, : prefixes.shape[1]] = prefixes.astype(np.int64) + 1
    keys: npt.NDArray[np.bytes_] = padded.view(f"S{2 * width}")[:, 0]
    return keys
