"""The catalogue of a model version: ids, semantic IDs, vectors and displayed content of all items.

A catalogue is immutable. Changes make a new one that is swapped in as a whole. An item keeps its row and its semantic
ID for ever; a new item gets the next row; a deleted item is hidden and stays where it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store.catalogue.changes import Change, ItemDelete, ItemPut, merge_changes
from model_store.catalogue.columns import Attributes, PackedAttributes, PackedCategories
from model_store.catalogue.growing_rows import GrowingRows
from model_store.catalogue.id_index import IdIndex
from model_store.catalogue.packed import Arrays, PackedStrings, Ragged, Rows, pack_strings
from model_store.catalogue.table import CatalogueTable
from model_store.errors import CatalogueError
from model_store.semantic_ids.trie import Trie
from model_store.semantic_ids.trie_growth import grow_trie

__all__ = ["ID_BYTES", "MAX_CODEBOOK_SIZE", "Attributes", "Catalogue", "Change", "ItemDelete", "ItemPut"]

ID_BYTES = 128
"""Size limit of an item or user id, in UTF-8 bytes."""

MAX_CODEBOOK_SIZE = 2**15
"""Largest codebook. Codes have 16 bits, and the trie pads its arrays by the codebook size, so without this limit a
damaged size could ask for all memory."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All items by row. Inside a version an item is identified by its row number; ids are for the outside.

    Columns may be given as any sequences. They are packed, and still read like sequences.
    """

    codebook_size: int
    item_ids: Sequence[str]
    codes: npt.NDArray[np.int16]  # [items, L]
    titles: Sequence[str]  # "" where unknown
    categories: Sequence[tuple[str, ...]]
    attributes: Sequence[Attributes]
    popularity: npt.NDArray[np.int64]  # [items], training interactions
    vectors: npt.NDArray[np.float32] | None = None  # [items, d_s], unit length, for dense scores
    is_hidden: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=np.bool_))  # [items]
    trained: int = -1  # rows below it were trained, the others are new items; default: all were trained

    def __post_init__(self) -> None:
        """Pack columns that are plain sequences, and set the defaults that depend on the number of items."""
        items = len(self.item_ids)
        fields = {
            "item_ids": pack_strings(self.item_ids, "item ids"),
            "titles": pack_strings(self.titles, "titles"),
            "categories": PackedCategories.of(self.categories),
            "attributes": PackedAttributes.of(self.attributes),
            "is_hidden": self.is_hidden if len(self.is_hidden) else np.zeros(items, dtype=np.bool_),
            "trained": items if self.trained < 0 else self.trained,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)  # the class is frozen

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def row_of(self) -> IdIndex:
        """Rows by item id; reads like a dict."""
        return IdIndex(PackedStrings.of(self.item_ids))

    @cached_property
    def trie(self) -> Trie:
        """The trie over all items."""
        return Trie.build(self.codes, self.codebook_size)

    @cached_property
    def by_popularity(self) -> npt.NDArray[np.int32]:
        """Rows from the most to the least popular item, ties by row; hidden items included."""
        return np.argsort(-self.popularity, kind="stable").astype(np.int32)

    @cached_property
    def interactions(self) -> int:
        """Number of training interactions of all items together."""
        return int(self.popularity.sum())

    @cached_property
    def _growing(self) -> GrowingRows | None:
        """``vectors``, with spare rows after them for the vectors of new items."""
        return None if self.vectors is None else GrowingRows(self.vectors)

    def row(self, item_id: str) -> int | None:
        """Return the row of an item, hidden or not; ``None`` if the catalogue lacks it."""
        return self.row_of.row(item_id)

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """Return the rows of these ids in the given order, without unknown ids."""
        found = self.row_of.find(item_ids)
        return found[found >= 0]

    def rows_of_categories(self, names: Iterable[str]) -> Rows:
        """Return the rows of the items that have any of these categories, ascending; hidden items included."""
        return PackedCategories.of(self.categories).rows_of(names)

    def number_fields(self) -> frozenset[str]:
        """Return the attributes in which an item has a number, or had one before it changed."""
        return PackedAttributes.of(self.attributes).number_fields()

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """Return the number that each item has as this attribute, ``[items]``; NaN where it has none."""
        return PackedAttributes.of(self.attributes).numbers(name)

    def with_changes(self, changes: Sequence[Change]) -> Catalogue:
        """Return a catalogue with these changes applied in order; this catalogue stays as it is.

        The time is proportional to the number of items, at the speed of copying memory. The vectors, which are most of
        it, are seldom copied: those of new items are written after the old ones, which both catalogues share.

        Raises:
            CatalogueError: A new item lacks its codes or its vector, or they do not fit; nothing is applied then.
        """
        new, rows, content, hidden = merge_changes(changes, self.row_of)
        if not hidden:  # nothing but deletions of unknown items
            return self

        columns = self._changed_columns(len(new), rows, content, hidden)
        if not new:
            return self._with_columns(columns, {"row_of": self.row_of, "trie": self.trie, "_growing": self._growing})

        codes, trie = self._append_codes(new)
        new_ids = [_check_id(put.item_id) for put in new]
        new_rows = np.arange(len(self), len(self) + len(new))
        ids = PackedStrings.of(self.item_ids).with_rows(new_rows, new_ids)
        growing = self._append_vectors(new)
        columns |= {
            "item_ids": ids,
            "codes": codes,
            "popularity": np.append(self.popularity, np.zeros(len(new), dtype=np.int64)),
            "vectors": None if growing is None else growing.rows,
        }
        return self._with_columns(columns, {"row_of": self.row_of.with_ids(ids), "trie": trie, "_growing": growing})

    def with_room(self) -> Catalogue:
        """Return the same catalogue with spare rows after its vectors: copies now what the first new item would."""
        growing = None if self._growing is None else self._growing.with_room()
        if growing is None or growing is self._growing:
            return self

        derived = {"row_of": self.row_of, "trie": self.trie, "_growing": growing}
        return self._with_columns({"vectors": growing.rows}, derived)

    def _changed_columns(
        self, new_items: int, rows: Rows, content: Sequence[ItemPut], hidden: dict[int, bool]
    ) -> dict[str, Any]:
        """Return the columns that any change replaces: visibility, and the content of these rows."""
        is_hidden = np.append(self.is_hidden, np.zeros(new_items, dtype=np.bool_))
        is_hidden[list(hidden)] = list(hidden.values())
        if not content:
            return {"is_hidden": is_hidden}

        titles = PackedStrings.of(self.titles)
        categories = PackedCategories.of(self.categories)
        attributes = PackedAttributes.of(self.attributes)
        return {
            "is_hidden": is_hidden,
            "titles": titles.with_rows(rows, [put.title for put in content]),
            "categories": categories.with_rows(rows, [put.categories for put in content]),
            "attributes": attributes.with_rows(rows, [put.attributes for put in content]),
        }

    def _with_columns(self, columns: dict[str, Any], derived: dict[str, Any]) -> Catalogue:
        """Return a copy with other columns and with the cached properties that were derived from them already."""
        copy = replace(self, **columns)
        if "by_popularity" in self.__dict__ and (self.popularity >= 0).all():
            # New items have no training interactions, so they come last.
            derived["by_popularity"] = np.append(self.by_popularity, np.arange(len(self), len(copy), dtype=np.int32))
        copy.__dict__.update(derived)
        return copy

    def _append_codes(self, new: Sequence[ItemPut]) -> tuple[npt.NDArray[np.int16], Trie]:
        """Return the codes and the trie with new items after the others."""
        levels = self.codes.shape[1]
        for put in new:
            if put.codes is None or np.shape(put.codes) != (levels,):
                raise CatalogueError(f"the new item {put.item_id[:40]!r} needs {levels} codes, got {put.codes}")

        codes = np.stack([np.asarray(put.codes) for put in new])
        trie = grow_trie(self.trie, codes)
        return np.concatenate([self.codes, codes.astype(np.int16)]), trie

    def _append_vectors(self, new: Sequence[ItemPut]) -> GrowingRows | None:
        """Return the vectors with those of new items after them; ``None`` if the catalogue has no vectors."""
        if self._growing is None:
            return None
        width = self._growing.rows.shape[1]
        for put in new:
            if put.vector is None or np.shape(put.vector) != (width,):
                raise CatalogueError(f"the new item {put.item_id[:40]!r} needs a vector of {width} numbers")

        return self._growing.with_rows(np.stack([np.asarray(put.vector, dtype=np.float32) for put in new]))

    def check_integrity(self) -> None:
        """Raise :class:`CatalogueError` unless columns agree and ids and codes are unique."""
        self._check_columns()
        self.trie.check_integrity()

    def _check_columns(self) -> None:
        columns: list[Sized] = [self.item_ids, self.codes, self.titles, self.categories, self.attributes]
        columns += [self.popularity, self.is_hidden, *([] if self.vectors is None else [self.vectors])]
        lengths = [len(column) for column in columns]
        if len(set(lengths)) != 1:
            raise CatalogueError(f"catalogue columns differ in length: {lengths}")

        _check_codebook_size(self.codebook_size)
        if not 0 <= self.trained <= len(self):
            raise CatalogueError(f"trained must be 0 to {len(self)}, the number of items, not {self.trained}")
        if self.row_of.repeated:
            raise CatalogueError(f"catalogue holds {self.row_of.repeated} repeated item ids")

        sizes = PackedStrings.of(self.item_ids).ragged.lengths
        if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= ID_BYTES:
            _check_id(self.item_ids[int(np.argmax((sizes < 1) | (sizes > ID_BYTES)))])

    def to_parquet(self) -> bytes:
        """Serialise the trained columns as ``catalogue.parquet``; codes as a list column, attributes as JSON text."""
        table = CatalogueTable(
            codebook_size=self.codebook_size,
            item_ids=PackedStrings.of(self.item_ids),
            codes=self.codes,
            titles=PackedStrings.of(self.titles),
            categories=PackedCategories.of(self.categories),
            attributes=PackedAttributes.of(self.attributes),
            popularity=self.popularity,
        )
        return table.to_bytes()

    @classmethod
    def from_parquet(cls, data: bytes, vectors: npt.NDArray[np.float32] | None = None) -> Catalogue:
        """Read and check the output of :meth:`to_parquet`; ``vectors`` are stored elsewhere and join it here.

        Raises:
            CatalogueError: The bytes are not such a table, or its content is inconsistent.
        """
        table = CatalogueTable.from_bytes(data)
        table.attributes.check_integrity()
        catalogue = cls(**table._asdict(), vectors=vectors)
        catalogue._check_columns()
        _ = catalogue.trie  # building it checks the codes
        return catalogue

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the whole catalogue as flat named arrays, for a snapshot; :meth:`from_arrays` takes them back.

        Equal catalogues give equal arrays, whatever changes led to them.
        """
        named: dict[str, npt.NDArray[np.generic]] = {
            "codebook_size": np.array([self.codebook_size], dtype=np.int64),
            "trained": np.array([self.trained], dtype=np.int64),
            "popularity": self.popularity,
            "is_hidden": self.is_hidden,
            **PackedStrings.of(self.item_ids).ragged.arrays("item_ids"),
            **PackedStrings.of(self.titles).ragged.arrays("titles"),
            **PackedCategories.of(self.categories).arrays(),
            **PackedAttributes.of(self.attributes).texts.ragged.arrays("attributes"),
            **self.trie.arrays(),
        }

        if self.vectors is not None:
            named["vectors"] = self.vectors
        return named

    @classmethod
    def from_arrays(cls, arrays: Arrays, vectors: GrowingRows | None = None) -> Catalogue:
        """Rebuild and check a catalogue from :meth:`arrays`; its columns stay views of the given arrays.

        Args:
            arrays: By name.
            vectors: Vectors of all items, if the arrays leave them out.

        Raises:
            CatalogueError: An array is missing or they contradict each other.
        """
        try:
            codebook_size = int(arrays["codebook_size"][0])
            trained = int(arrays["trained"][0])
            popularity = arrays["popularity"].astype(np.int64, copy=False)
            is_hidden = arrays["is_hidden"].astype(np.bool_, copy=False)
        except (KeyError, IndexError) as missing:
            raise CatalogueError(f"the snapshot lacks the array {missing}") from missing
        _check_codebook_size(codebook_size)

        trie = Trie.from_arrays(arrays, codebook_size)
        texts = {name: PackedStrings(Ragged.from_arrays(arrays, name)) for name in ("item_ids", "titles", "attributes")}
        for name, column in texts.items():
            column.check_integrity(name)
        if "vectors" in arrays:
            vectors = GrowingRows(arrays["vectors"].astype(np.float32, copy=False))

        catalogue = cls(
            codebook_size=codebook_size,
            item_ids=texts["item_ids"],
            codes=trie.codes(),
            titles=texts["titles"],
            categories=PackedCategories.from_arrays(arrays),
            attributes=PackedAttributes(texts["attributes"]),
            popularity=popularity,
            vectors=None if vectors is None else vectors.rows,
            is_hidden=is_hidden,
            trained=trained,
        )

        # Keep what is known already, so that the trie is not built again.
        catalogue.__dict__.update({"trie": trie, "_growing": vectors})
        catalogue._check_columns()
        return catalogue

    def digest(self) -> str:
        """Return the SHA-256 of the whole content in hexadecimal; equal catalogues have equal digests."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays().items()):
            plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"{name} {plain.dtype.str} {array.shape}\n".encode())
            digest.update(plain.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


def _check_id(item_id: str) -> str:
    """Return an item id, or raise :class:`CatalogueError` if its size is wrong."""
    if not 1 <= len(item_id.encode()) <= ID_BYTES:
        raise CatalogueError(f"item id {item_id[:40]!r} must be 1 to {ID_BYTES} bytes long")
    return item_id


def _check_codebook_size(codebook_size: int) -> None:
    """Raise :class:`CatalogueError` unless the codebook size is possible."""
    if not 1 <= codebook_size <= MAX_CODEBOOK_SIZE:
        raise CatalogueError(f"codebook_size must be 1 to {MAX_CODEBOOK_SIZE}, not {codebook_size}")
