"""Catalogue of a version at a place of the change stream, and the changes applied to it; no store, no clock.

The same changes applied to the same catalogue give the same catalogue on every replica, however the changes were
grouped: items are encoded and placed one by one, and every replica leaves out a change that this version cannot take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.changes import Change, ItemDelete, ItemPut
from model_store.catalogue.growing_rows import GrowingRows
from model_store.errors import CatalogueError, CatalogueFull, ItemRefused
from service.replication.catalogue_source import CatalogueSource, Encoded, Placer
from service.schemas.items import StoredItem, delete_change, read_payload
from service.store.change_stream import START, ItemChange, Position, RawChange, Snapshot

NEW_VECTORS = "live_vectors"  # the name is part of SNAPSHOT_FORMAT
"""Name of a snapshot's array that holds the vectors of new items, ``[items, d_s]``."""


@dataclass(frozen=True, eq=False)
class ReplicatedCatalogue:
    """Catalogue of a version with all changes up to a place in the stream.

    Attributes:
        source: Bundle and coder of the version.
        catalogue: Items of the version, new ones included.
        at: Place of the last change that was applied; each change was applied once.
        lineage: See :class:`service.store.change_stream.Head`; "" until the catalogue descends from a shared snapshot.
    """

    source: CatalogueSource
    catalogue: Catalogue
    at: Position = START
    lineage: str = ""

    def to_snapshot(self) -> Snapshot:
        """Return the snapshot that replicas share. Vectors of trained items, most of the bytes, stay in the bundle."""
        arrays = self.catalogue.arrays()
        vectors = arrays.pop("vectors", None)
        if vectors is not None:
            arrays[NEW_VECTORS] = vectors[self.catalogue.trained :]
        return Snapshot(self.at, self.lineage, self.source.origin, arrays)

    @classmethod
    def from_snapshot(
        cls, source: CatalogueSource, snapshot: Snapshot, trained: GrowingRows | None
    ) -> ReplicatedCatalogue:
        """Restore and check the catalogue that a snapshot holds.

        Args:
            source: Bundle and coder of the version.
            snapshot: Snapshot as it was loaded from the store.
            trained: Vectors of trained items, :meth:`model_store.bundle.bundle.Bundle.vectors`.

        Raises:
            CatalogueError: The snapshot belongs to another version, or contradicts itself.
        """
        return SnapshotContent.of(source, snapshot).with_trained(trained)

    def apply(self, changes: Sequence[ItemChange], at: Position) -> Applied:
        """Return the catalogue after these changes, the last of which is at ``at``. Takes time: call it in a thread."""
        entries, refused = _prepare(self, changes)
        catalogue = self.catalogue.with_changes(entries) if entries else self.catalogue
        return Applied(replace(self, catalogue=catalogue, at=at), refused)

    def stored_item(self, row: int) -> StoredItem:
        """Return what is known of the item in a row, hidden or not, as a ``PUT`` of it would be stored.

        Its embedding is there if another version could not place the item without it.
        """
        catalogue = self.catalogue
        takes_embeddings = self.source.bundle.manifest.embedding_source == "user"
        is_new = row >= catalogue.trained
        vector = catalogue.vectors[row] if is_new and takes_embeddings and catalogue.vectors is not None else None

        return StoredItem.model_construct(
            title=catalogue.titles[row],
            categories=list(catalogue.categories[row]),
            attributes=catalogue.attributes[row],
            embedding=None if vector is None else vector.tolist(),
        )

    @property
    def room(self) -> int:
        """Number of new items that can still get a semantic ID. Hidden items keep theirs."""
        levels = self.catalogue.codes.shape[1]
        return int(self.catalogue.codebook_size**levels) - len(self.catalogue)


class Applied(NamedTuple):
    """Result of applying changes."""

    replica: ReplicatedCatalogue
    refused: int  # changes that this version could not take


class SnapshotContent(NamedTuple):
    """Checked content of a snapshot. The vectors of trained items, which come from the bundle, are still missing."""

    replica: ReplicatedCatalogue  # of a catalogue without vectors
    new_vectors: npt.NDArray[np.generic] | None  # of items that are not in the bundle

    @classmethod
    def of(cls, source: CatalogueSource, snapshot: Snapshot) -> SnapshotContent:
        """Restore and check what a snapshot holds. Takes seconds for millions of items: call it in a thread.

        Raises:
            CatalogueError: The snapshot belongs to another version, or contradicts itself.
        """
        if snapshot.origin != source.origin:
            raise CatalogueError("the snapshot does not descend from this version's catalogue")
        catalogue = Catalogue.from_arrays(snapshot.arrays)
        replica = ReplicatedCatalogue(source, catalogue, snapshot.at, snapshot.lineage)
        return cls(replica, snapshot.arrays.get(NEW_VECTORS))

    def with_trained(self, trained: GrowingRows | None) -> ReplicatedCatalogue:
        """Return the catalogue with all vectors.

        Args:
            trained: See :meth:`ReplicatedCatalogue.from_snapshot`.

        Raises:
            CatalogueError: These vectors do not belong to the snapshot.
        """
        new = self.new_vectors
        if trained is None and new is None:
            return self.replica
        if trained is None or new is None or new.shape[1:] != trained.rows.shape[1:]:
            raise CatalogueError("the vectors of a snapshot are not those of its version")
        vectors = trained.with_rows(new.astype(np.float32, copy=False))
        return replace(self.replica, catalogue=self.replica.catalogue.with_vectors(vectors))


def recover_changes(replica: ReplicatedCatalogue, trained: Catalogue) -> Iterator[RawChange]:
    """Yield the changes that lead from the catalogue as trained to this one, in the order of its rows.

    With them a replica refills a store that lost its changes.
    """
    catalogue = replica.catalogue
    for row in range(len(catalogue)):
        item_id = catalogue.item_ids[row]
        is_changed = row >= catalogue.trained or _content(catalogue, row) != _content(trained, row)
        if catalogue.is_hidden[row]:
            yield delete_change(item_id, replica.stored_item(row).payload() if is_changed else b"")
        elif is_changed:
            yield replica.stored_item(row).change(item_id)


def _prepare(replica: ReplicatedCatalogue, changes: Sequence[ItemChange]) -> tuple[list[Change], int]:
    """Decode changes, and encode and place new items; return the entries, and how many changes were refused.

    A deletion that has a payload puts the content first: the item can come back with it.
    """
    is_known = (replica.catalogue.row_of.find([change.item_id for change in changes]) >= 0).tolist()
    new_payloads = [
        change.payload for change, known in zip(changes, is_known, strict=True) if change.payload and not known
    ]
    encoded = replica.source.encode_payloads(new_payloads)
    placer = replica.source.coder.placement(replica.catalogue)

    entries: list[Change] = []
    placed: set[str] = set()  # new items that got their codes from an earlier change
    refused = 0
    for change, known in zip(changes, is_known, strict=True):
        if change.kind == "put" or change.payload:
            put = _decode_put(change)
            if put is not None and not known and change.item_id not in placed:
                put = _place(replica, put, encoded[change.payload], placer)
            if put is None:
                refused += 1
            else:
                entries.append(put)
                placed.add(change.item_id)
        if change.kind == "delete":
            entries.append(ItemDelete(change.item_id))

    return entries, refused


def _decode_put(change: ItemChange) -> ItemPut | None:
    body = read_payload(change.payload)
    return None if body is None else body.put(change.item_id)


def _place(
    replica: ReplicatedCatalogue, put: ItemPut, encoded: Encoded | ItemRefused, placer: Placer
) -> ItemPut | None:
    """Give a new item its codes and vector; ``None`` if this version cannot take it, though another one may."""
    if isinstance(encoded, ItemRefused):
        return None
    try:
        codes = placer.place(encoded.latent)
    except CatalogueFull:
        return None
    vector = None if replica.catalogue.vectors is None else encoded.vector
    return replace(put, codes=codes, vector=vector, resemblance=encoded.resemblance)


def _content(catalogue: Catalogue, row: int) -> tuple[object, ...]:
    return catalogue.titles[row], catalogue.categories[row], catalogue.attributes[row]
