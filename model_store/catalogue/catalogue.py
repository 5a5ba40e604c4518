"""The items of a model version: ids, semantic IDs and what people are shown.

A catalogue is immutable. Changes make a new one that is swapped in as a whole: an item keeps its row and its semantic
ID for ever, a new one gets the next row, a deleted one is hidden and stays where it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store.catalogue.changes import Change, ItemDelete, ItemPut, outcome
from model_store.catalogue.columns import Attributes, PackedAttributes, PackedCategories
from model_store.catalogue.growing_rows import GrowingRows
from model_store.catalogue.id_index import IdIndex
from model_store.catalogue.packed import Arrays, PackedStrings, Ragged, Rows, as_packed
from model_store.catalogue.table import Columns, read_columns, table_bytes
from model_store.errors import CatalogueError
from model_store.semantic_ids.trie import Trie
from model_store.semantic_ids.trie_growth import grown

__all__ = ["ID_BYTES", "LARGEST_CODEBOOK", "Attributes", "Catalogue", "Change", "ItemDelete", "ItemPut"]

ID_BYTES = 128
"""Longest item or user id, in UTF-8 bytes."""

LARGEST_CODEBOOK = 2**15
"""Codes are 16-bit, and the trie pads its arrays by the codebook size: a damaged size must not ask for all memory."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All items by row. A row number is an item's index everywhere inside a version; ids are for the outside.

    Columns may be given as any sequences: they are packed, and read like sequences still.
    """

    codebook_size: int
    item_ids: Sequence[str]
    codes: npt.NDArray[np.int16]  # [items, L]
    titles: Sequence[str]  # "" where unknown
    categories: Sequence[tuple[str, ...]]
    attributes: Sequence[Attributes]
    popularity: npt.NDArray[np.int64]  # [items], training interactions
    vectors: npt.NDArray[np.float32] | None = None  # [items, d_s], unit length, for dense scores; None: there are none
    is_hidden: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=np.bool_))  # [items]
    trained: int = -1  # rows below it were trained, the others came live; default: all

    def __post_init__(self) -> None:
        """Pack columns that are plain sequences; fill in what was left out."""
        attributes = PackedAttributes.of(self.attributes)
        packed = {
            "item_ids": as_packed(self.item_ids, "item ids"),
            "titles": as_packed(self.titles, "titles"),
            "categories": PackedCategories.of(self.categories),
            "attributes": attributes,
            "is_hidden": self.is_hidden if len(self.is_hidden) else np.zeros(len(self.item_ids), dtype=np.bool_),
            "trained": len(self.item_ids) if self.trained < 0 else self.trained,
        }
        for name, column in packed.items():
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def row_of(self) -> IdIndex:
        """Row by item id; reads like a dict."""
        return IdIndex(PackedStrings.of(self.item_ids))

    @cached_property
    def trie(self) -> Trie:
        """The trie over all items."""
        return Trie.build(self.codes, self.codebook_size)

    @cached_property
    def by_popularity(self) -> npt.NDArray[np.int32]:
        """Rows, most popular first, ties by row; hidden ones included."""
        return np.argsort(-self.popularity, kind="stable").astype(np.int32)

    @cached_property
    def interactions(self) -> int:
        """Training interactions of all items together."""
        return int(self.popularity.sum())

    @cached_property
    def _growing(self) -> GrowingRows | None:
        """``vectors``, and whatever room there is behind them for those of new items."""
        return None if self.vectors is None else GrowingRows(self.vectors)

    def row(self, item_id: str) -> int | None:
        """Row of an item, hidden or not; ``None`` if the catalogue lacks it."""
        return self.row_of.row(item_id)

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """Rows of the known ones among these ids, in the given order."""
        found = self.row_of.find(item_ids)
        return found[found >= 0]

    def rows_of_categories(self, names: Iterable[str]) -> Rows:
        """Rows of the items that have any of these categories, ascending; hidden ones included."""
        return PackedCategories.of(self.categories).rows_of(names)

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """The number that each item has as this attribute, ``[items]``; NaN where it has none."""
        return PackedAttributes.of(self.attributes).numbers(name)

    def with_changes(self, changes: Sequence[Change]) -> Catalogue:
        """A catalogue with these changes, in order; this one stays as it is.

        Takes time in proportion to the items, at the speed of copying memory. Only vectors, which are most of it, are
        seldom copied: those of new items are written behind the old ones, which both catalogues share.

        Raises:
            CatalogueError: A new item lacks its codes or its vector, or they do not fit; nothing is applied then.
        """
        new, rows, content, hidden = outcome(changes, self.row_of)
        if not hidden:
            return self
        is_hidden = np.append(self.is_hidden, np.zeros(len(new), dtype=np.bool_))
        is_hidden[list(hidden)] = list(hidden.values())
        changed: dict[str, Any] = {"is_hidden": is_hidden}
        if content:
            titles, categories = PackedStrings.of(self.titles), PackedCategories.of(self.categories)
            attributes = PackedAttributes.of(self.attributes)
            changed["titles"] = titles.with_rows(rows, [put.title for put in content])
            changed["categories"] = categories.with_rows(rows, [put.categories for put in content])
            changed["attributes"] = attributes.with_rows(rows, [put.attributes for put in content])
        if not new:
            return self._with_columns(changed, {"row_of": self.row_of, "trie": self.trie, "_growing": self._growing})
        codes, trie = self._with_codes(new)
        ids = PackedStrings.of(self.item_ids)
        ids = ids.with_rows(np.arange(len(self), len(self) + len(new)), [_checked_id(put.item_id) for put in new])
        changed |= {"item_ids": ids, "codes": codes}
        changed["popularity"] = np.append(self.popularity, np.zeros(len(new), dtype=np.int64))
        growing = self._with_vectors(new)
        changed["vectors"] = None if growing is None else growing.rows
        return self._with_columns(changed, {"row_of": self.row_of.with_ids(ids), "trie": trie, "_growing": growing})

    def with_room(self) -> Catalogue:
        """The same catalogue with room behind its vectors: copies them now, so that the first new item need not."""
        growing = None if self._growing is None else self._growing.with_room()
        if growing is None or growing is self._growing:
            return self
        derived = {"row_of": self.row_of, "trie": self.trie, "_growing": growing}
        return self._with_columns({"vectors": growing.rows}, derived)

    def _with_columns(self, columns: dict[str, Any], derived: dict[str, Any]) -> Catalogue:
        """A copy with other columns that takes over what was derived from them before."""
        copy = replace(self, **columns)
        if "by_popularity" in self.__dict__ and (self.popularity >= 0).all():
            # New items have had no interactions yet, so they come last.
            derived["by_popularity"] = np.append(self.by_popularity, np.arange(len(self), len(copy), dtype=np.int32))
        copy.__dict__.update(derived)
        return copy

    def _with_codes(self, new: Sequence[ItemPut]) -> tuple[npt.NDArray[np.int16], Trie]:
        levels = self.codes.shape[1]
        for put in new:
            if put.codes is None or np.shape(put.codes) != (levels,):
                raise CatalogueError(f"the new item {put.item_id[:40]!r} needs {levels} codes, got {put.codes}")
        codes = np.stack([np.asarray(put.codes) for put in new])
        trie = grown(self.trie, codes)
        return np.concatenate([self.codes, codes.astype(np.int16)]), trie

    def _with_vectors(self, new: Sequence[ItemPut]) -> GrowingRows | None:
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
        if len({len(column) for column in columns}) != 1:
            raise CatalogueError(f"catalogue columns differ in length: {[len(column) for column in columns]}")
        if not 1 <= self.codebook_size <= LARGEST_CODEBOOK:
            raise CatalogueError(f"codebook_size must be 1 to {LARGEST_CODEBOOK}, not {self.codebook_size}")
        if not 0 <= self.trained <= len(self):
            raise CatalogueError(f"trained must be 0 to {len(self)}, the number of items, not {self.trained}")
        if self.row_of.repeated:
            raise CatalogueError(f"catalogue holds {self.row_of.repeated} repeated item ids")
        lengths = PackedStrings.of(self.item_ids).ragged.lengths
        if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= ID_BYTES:
            _checked_id(self.item_ids[int(np.argmax((lengths < 1) | (lengths > ID_BYTES)))])

    def to_parquet(self) -> bytes:
        """Serialise what was trained as ``catalogue.parquet``; codes as a list column, attributes as JSON text."""
        return table_bytes(
            Columns(
                codebook_size=self.codebook_size,
                item_ids=PackedStrings.of(self.item_ids),
                codes=self.codes,
                titles=PackedStrings.of(self.titles),
                categories=PackedCategories.of(self.categories),
                attributes=PackedAttributes.of(self.attributes),
                popularity=self.popularity,
            )
        )

    @classmethod
    def from_parquet(cls, data: bytes, vectors: npt.NDArray[np.float32] | None = None) -> Catalogue:
        """Read what :meth:`to_parquet` wrote, checked; ``vectors``, which are stored elsewhere, join it.

        Raises:
            CatalogueError: The bytes are no such table, or its content is inconsistent.
        """
        columns = read_columns(data)
        columns.attributes.check_integrity()
        catalogue = cls(**columns._asdict(), vectors=vectors)
        catalogue._check_columns()
        _ = catalogue.trie  # building it checks the codes
        return catalogue

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The whole catalogue as flat named arrays, for a snapshot; :meth:`from_arrays` takes them back.

        Equal catalogues give equal arrays, however they came about.
        """
        named = {
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
        return named if self.vectors is None else named | {"vectors": self.vectors}

    @classmethod
    def from_arrays(cls, arrays: Arrays, vectors: GrowingRows | None = None) -> Catalogue:
        """Rebuild from :meth:`arrays`, checked; columns stay views of the given arrays.

        Args:
            arrays: By name.
            vectors: Of all items, where the arrays leave them out.

        Raises:
            CatalogueError: An array is missing or they contradict each other.
        """
        try:
            codebook_size, trained = (int(arrays[name][0]) for name in ("codebook_size", "trained"))
            popularity, is_hidden = arrays["popularity"].astype(np.int64, copy=False), arrays["is_hidden"]
        except (KeyError, IndexError) as missing:
            raise CatalogueError(f"the snapshot lacks the array {missing}") from missing
        if not 1 <= codebook_size <= LARGEST_CODEBOOK:
            raise CatalogueError(f"codebook_size must be 1 to {LARGEST_CODEBOOK}, not {codebook_size}")
        trie = Trie.from_arrays(arrays, codebook_size)
        texts = {name: PackedStrings(Ragged.from_arrays(arrays, name)) for name in ("item_ids", "titles", "attributes")}
        for name, column in texts.items():
            column.check_integrity(name)
        attributes = PackedAttributes(texts["attributes"])
        if "vectors" in arrays:
            vectors = GrowingRows(arrays["vectors"].astype(np.float32, copy=False))
        catalogue = cls(
            codebook_size=codebook_size,
            item_ids=texts["item_ids"],
            codes=trie.codes(),
            titles=texts["titles"],
            categories=PackedCategories.from_arrays(arrays),
            attributes=attributes,
            popularity=popularity,
            vectors=None if vectors is None else vectors.rows,
            is_hidden=is_hidden.astype(np.bool_, copy=False),
            trained=trained,
        )
        catalogue.__dict__.update({"trie": trie, "_growing": vectors})
        catalogue._check_columns()
        return catalogue

    def digest(self) -> str:
        """SHA-256 of everything in it, in hexadecimal: two catalogues are the same if and only if it is."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        found = hashlib.sha256()
        for name, array in sorted(self.arrays().items()):
            plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            found.update(f"{name} {plain.dtype.str} {array.shape}\n".encode())
            found.update(plain.reshape(-1).view(np.uint8).data)
        return found.hexdigest()


def _checked_id(item_id: str) -> str:
    if not 1 <= len(item_id.encode()) <= ID_BYTES:
        raise CatalogueError(f"item id {item_id[:40]!r} must be 1 to {ID_BYTES} bytes long")
    return item_id
