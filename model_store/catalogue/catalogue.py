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

from model_store.catalogue.changes import Change, ItemDelete, ItemPut, merge_changes, resemblances_of, rows_of_new_items
from model_store.catalogue.columns import Attributes, PackedAttributes, PackedCategories
from model_store.catalogue.growing_rows import GrowingRows, flip_rows
from model_store.catalogue.id_index import IdIndex
from model_store.catalogue.packed import PackedStrings, pack_strings
from model_store.catalogue.ragged import Arrays, Ragged, Rows
from model_store.catalogue.resemblances import Resemblances
from model_store.catalogue.table import CatalogueTable
from model_store.errors import CatalogueError
from model_store.semantic_ids.mask_changes import flip_leaves, grow_mask
from model_store.semantic_ids.trie import RuleMask, Trie
from model_store.semantic_ids.trie_growth import GrownTrie, grow_trie

__all__ = ["ID_BYTES", "MAX_CODEBOOK_SIZE", "Attributes", "Catalogue", "Change", "ItemDelete", "ItemPut"]

_FEW = 64
"""Most changed items for which the mask of visible items is changed, item by item, instead of being made anew."""

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
    resemblances: Resemblances = field(default_factory=Resemblances)  # of the last rows; default: nothing is known

    def __post_init__(self) -> None:
        """Pack columns that are plain sequences, and set the defaults that depend on the number of items."""
        items = len(self.item_ids)
        trained = items if self.trained < 0 else self.trained
        is_hidden = self.is_hidden if len(self.is_hidden) else np.zeros(items, dtype=np.bool_)
        known = Resemblances.unknown(trained, items) if self.resemblances.first < 0 else self.resemblances
        fields = {
            "item_ids": pack_strings(self.item_ids, "item ids"),
            "titles": pack_strings(self.titles, "titles"),
            "categories": PackedCategories.of(self.categories),
            "attributes": PackedAttributes.of(self.attributes),
            "is_hidden": is_hidden,
            "trained": trained,
            "resemblances": known.hiding(is_hidden[known.first :]),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)  # the class is frozen

    def __len__(self) -> int:
        return len(self.codes)  # every request asks for it, and of all columns an array answers soonest

    @cached_property
    def row_of(self) -> IdIndex:
        """Rows by item id; reads like a dict."""
        return IdIndex(PackedStrings.of(self.item_ids))

    @cached_property
    def trie(self) -> Trie:
        """The trie over all items."""
        return Trie.build(self.codes, self.codebook_size)

    @cached_property
    def visible(self) -> RuleMask:
        """The mask that leaves the items open that are not hidden."""
        return self.trie.mask(~self.is_hidden) if self.is_hidden.any() else self.trie.everything

    @property
    def by_popularity(self) -> npt.NDArray[np.int32]:
        """Rows from the most to the least popular item, ties by row; hidden items included."""
        return self._by_popularity.rows

    @cached_property
    def _by_popularity(self) -> GrowingRows:
        return GrowingRows(np.argsort(-self.popularity, kind="stable").astype(np.int32))

    @cached_property
    def interactions(self) -> int:
        """Number of training interactions of all items together."""
        return int(self.popularity.sum())

    @cached_property
    def _growing(self) -> dict[str, GrowingRows]:
        """The arrays with a row an item, by name, with spare rows after them for new items."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "codes": self.codes,
            "popularity": self.popularity,
            "is_hidden": self.is_hidden,
        }
        if self.vectors is not None:
            arrays["vectors"] = self.vectors
        return {name: GrowingRows(array) for name, array in arrays.items()}

    def row(self, item_id: str) -> int | None:
        """Return the row of an item, hidden or not; ``None`` if the catalogue lacks it."""
        return self.row_of.row(item_id)

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """Return the rows of these ids in the given order, without unknown ids."""
        found = self.row_of.find(item_ids)
        return found[found >= 0]

    def ids_of(self, rows: Iterable[int]) -> list[str]:
        """Return the ids of the items in a few rows, in this order."""
        return PackedStrings.of(self.item_ids).pick(rows)

    def titles_of(self, rows: Iterable[int]) -> list[str]:
        """Return the titles of the items in a few rows, in this order; "" where unknown."""
        return PackedStrings.of(self.titles).pick(rows)

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

        The two share what did not change: rows of new items are written after the old ones, and of the content only
        the chunks are copied that have changed rows. What is copied is one byte an item, and what
        :func:`~model_store.semantic_ids.trie_growth.grow_trie` copies for a new item.

        Raises:
            CatalogueError: A new item lacks its codes or its vector, or they do not fit; nothing is applied then.
        """
        new, rows, content, hidden = merge_changes(changes, self.row_of)
        if not hidden:  # nothing but deletions of unknown items
            return self

        columns = self._changed_content(rows, content)
        growing = self._growing
        derived: dict[str, Any] = {"row_of": self.row_of, "trie": self.trie} | self._popularity_derived(len(new))
        grown = None
        if new:
            added = rows_of_new_items(new, self.codes.shape[1], None if self.vectors is None else self.vectors.shape[1])
            new_ids = [_check_id(put.item_id) for put in new]
            ids = PackedStrings.of(self.item_ids).with_rows(np.arange(len(self), len(self) + len(new)), new_ids)
            columns["item_ids"] = ids
            columns["resemblances"] = self.resemblances.with_rows(resemblances_of(new))

            grown = grow_trie(self.trie, added["codes"])
            derived |= {"trie": grown.trie, "row_of": self.row_of.with_ids(ids)}
            growing = {name: growing[name].with_rows(array) for name, array in added.items()}

        flipped = [row for row, flag in hidden.items() if growing["is_hidden"].rows[row] != flag]
        growing = growing | {"is_hidden": flip_rows(growing["is_hidden"], flipped)}
        if "visible" in self.__dict__ and len(hidden) <= _FEW:
            shown = range(len(self), len(self) + len(new))
            derived["visible"] = self._changed_visible(grown, sorted({*shown} ^ {*flipped}))
        return self._with_columns(columns, growing, derived)

    def with_room(self) -> Catalogue:
        """Return the same catalogue with spare rows after its arrays: copies now what the first new item would."""
        growing = {name: array.with_room() for name, array in self._growing.items()}
        if all(array is self._growing[name] for name, array in growing.items()):
            return self
        return self._with_columns({}, growing, self._derived())

    def with_vectors(self, vectors: GrowingRows) -> Catalogue:
        """Return the same catalogue with the vectors of its items, ``[items, d_s]``, without copying them.

        Raises:
            CatalogueError: There are more or fewer vectors than items.
        """
        catalogue = self._with_columns({}, self._growing | {"vectors": vectors}, self._derived())
        catalogue._check_lengths()
        return catalogue

    def _derived(self) -> dict[str, Any]:
        """Return what a copy with the same items takes over."""
        return {"row_of": self.row_of, "trie": self.trie} | self._popularity_derived(new_items=0)

    def _changed_visible(self, grown: GrownTrie | None, rows: Sequence[int]) -> RuleMask:
        """Return the mask of visible items with those in these rows shown or hidden; new items count as hidden."""
        mask = self.visible
        trie = self.trie
        if grown is not None:
            mask = grow_mask(mask, trie, grown)
            trie = grown.trie
        return flip_leaves(mask, trie, trie.item_leaf[np.array(rows)].tolist()) if rows else mask

    def _changed_content(self, rows: Rows, content: Sequence[ItemPut]) -> dict[str, Any]:
        """Return the columns that hold the content of items, with other content in these rows."""
        if not content:
            return {}

        titles = PackedStrings.of(self.titles)
        categories = PackedCategories.of(self.categories)
        attributes = PackedAttributes.of(self.attributes)
        return {
            "titles": titles.with_rows(rows, [put.title for put in content]),
            "categories": categories.with_rows(rows, [put.categories for put in content]),
            "attributes": attributes.with_rows(rows, [put.attributes for put in content]),
        }

    def _with_columns(
        self, columns: dict[str, Any], growing: dict[str, GrowingRows], derived: dict[str, Any]
    ) -> Catalogue:
        """Return a copy with other columns and with the cached properties that were derived from them already."""
        copy = replace(self, **(columns | {name: array.rows for name, array in growing.items()}))
        copy.__dict__.update(derived | {"_growing": growing})
        return copy

    def _popularity_derived(self, new_items: int) -> dict[str, Any]:
        """Return what is known already of the popularity of all items, with new ones that have no interactions."""
        known: dict[str, Any] = {}
        if "interactions" in self.__dict__:
            known["interactions"] = self.interactions
        if "_by_popularity" in self.__dict__ and self.popularity[self.by_popularity[-1]] >= 0:
            # Nobody is less popular than a new item, so new items come last.
            new_rows = np.arange(len(self), len(self) + new_items, dtype=np.int32)
            known["_by_popularity"] = self._by_popularity.with_rows(new_rows)
        return known

    def check_integrity(self) -> None:
        """Raise :class:`CatalogueError` unless columns agree and ids and codes are unique."""
        self._check_columns()
        self.trie.check_integrity()

    def _check_lengths(self) -> None:
        columns: list[Sized] = [self.item_ids, self.codes, self.titles, self.categories, self.attributes]
        columns += [self.popularity, self.is_hidden, *([] if self.vectors is None else [self.vectors])]
        lengths = [len(column) for column in columns]
        if len(set(lengths)) != 1:
            raise CatalogueError(f"catalogue columns differ in length: {lengths}")
        if self.resemblances.end != len(self):
            raise CatalogueError(f"resemblances end at row {self.resemblances.end}, the catalogue at {len(self)}")

    def _check_columns(self) -> None:
        self._check_lengths()
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
    def from_parquet(cls, data: bytes, resemblances: Resemblances | None = None) -> Catalogue:
        """Read and check the output of :meth:`to_parquet`; vectors are stored elsewhere, see :meth:`with_vectors`.

        Args:
            data: The table.
            resemblances: Of its last items; default: none of them is a new one.

        Raises:
            CatalogueError: The bytes are not such a table, or its content is inconsistent.
        """
        table = CatalogueTable.from_bytes(data)
        table.attributes.check_integrity()
        catalogue = cls(**table._asdict(), resemblances=resemblances or Resemblances())
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
            **self.resemblances.arrays(),
        }

        if self.vectors is not None:
            named["vectors"] = self.vectors
        return named

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Catalogue:
        """Rebuild and check a catalogue from :meth:`arrays`; its columns stay views of the given arrays.

        The arrays may leave the vectors out, see :meth:`with_vectors`.

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
        vectors = arrays.get("vectors")

        catalogue = cls(
            codebook_size=codebook_size,
            item_ids=texts["item_ids"],
            codes=trie.codes(),
            titles=texts["titles"],
            categories=PackedCategories.from_arrays(arrays),
            attributes=PackedAttributes(texts["attributes"]),
            popularity=popularity,
            vectors=None if vectors is None else vectors.astype(np.float32, copy=False),
            is_hidden=is_hidden,
            trained=trained,
            resemblances=Resemblances.from_arrays(arrays),
        )

        # Keep what is known already, so that the trie is not built again.
        catalogue.__dict__["trie"] = trie
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
