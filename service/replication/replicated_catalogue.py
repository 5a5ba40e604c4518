"""A version's catalogue at a place of the change stream, and how changes move it on. Pure: no store, no clock.

Applying the same changes to the same catalogue gives the same catalogue on every replica, however the changes were
grouped: items are encoded and placed one by one, and a change that this version cannot take is left out by all alike.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from model_store.bundle.bundle import Bundle
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.changes import Change, ItemDelete, ItemPut
from model_store.catalogue.growing_rows import GrowingRows
from model_store.errors import CatalogueError, CatalogueFull, ItemRefused
from model_store.replication.item_payload import NewItem
from service.schemas.items import ItemBody, delete_change, read_payload
from service.store.change_stream import START, ItemChange, Position, RawChange, Snapshot


class Encoded(Protocol):
    """What a model makes of one item."""

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """Unit length, [d_s]."""

    @property
    def latent(self) -> npt.NDArray[np.float32]:
        """For placement, [d_c]."""


class Placer(Protocol):
    """Gives encoded items their codes, one after another."""

    def place(self, latent: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
        """Codes [L] that are taken from now on; raises :class:`CatalogueFull`."""


class ItemCoder(Protocol):
    """Encodes and places items that a version was not trained on, like ``new_items.item_encoder.ItemEncoder``.

    Deterministic and thread-safe.
    """

    def encode_all(self, items: Sequence[NewItem]) -> Sequence[Encoded | ItemRefused]:
        """Encode each item as if it were the only one; why not, in the place of one that this version cannot."""

    def placement(self, catalogue: Catalogue) -> Placer:
        """Places items into this catalogue."""


CATALOGUE = "catalogue.parquet"
LIVE_VECTORS = "live_vectors"
"""Array of a snapshot: vectors of the items that came live, ``[items, d_s]``."""
ENCODED_AHEAD = 200_000
"""Items encoded before their change is applied that are kept at most; the oldest are encoded once more."""


class Ahead:
    """Items that were encoded to check them, until their change comes back from the stream. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._encoded: dict[bytes, Encoded] = {}

    def keep(self, payload: bytes, encoded: Encoded) -> None:
        """Remember what a payload was encoded to."""
        with self._lock:
            self._encoded[payload] = encoded
            if len(self._encoded) > ENCODED_AHEAD:
                del self._encoded[next(iter(self._encoded))]

    def take(self, payload: bytes) -> Encoded | None:
        """What it was encoded to, once."""
        with self._lock:
            return self._encoded.pop(payload, None)


@dataclass(frozen=True, eq=False)
class VersionItems:
    """What a version brings to its live catalogue.

    Attributes:
        bundle: The version.
        coder: Encodes and places new items.
        ahead: What was encoded already.
    """

    bundle: Bundle
    coder: ItemCoder
    ahead: Ahead = field(default_factory=Ahead)

    @property
    def version(self) -> str:
        """Name of the version."""
        return self.bundle.version

    def encode(self, bodies: Sequence[ItemBody]) -> Sequence[Encoded | ItemRefused]:
        """Encode items; why not, in the place of one that this version cannot."""
        return self.coder.encode_all(
            [NewItem(body.title, body.unique_categories, body.named_attributes, body.embedding) for body in bodies]
        )

    def encoded(self, payloads: Iterable[bytes]) -> Mapping[bytes, Encoded | ItemRefused]:
        """What payloads of new items come to; one that this release does not understand is missing."""
        ahead = {payload: self.ahead.take(payload) for payload in dict.fromkeys(payloads)}
        found: dict[bytes, Encoded | ItemRefused] = {key: each for key, each in ahead.items() if each is not None}
        bodies = {payload: read_payload(payload) for payload in ahead if payload not in found}
        known = {payload: body for payload, body in bodies.items() if body is not None}
        return found | dict(zip(known, self.encode(list(known.values())), strict=True))

    @property
    def origin(self) -> str:
        """What snapshots of this version descend from: SHA-256 of the catalogue as trained."""
        return self.bundle.manifest.files[CATALOGUE].sha256


@dataclass(frozen=True, eq=False)
class ReplicatedCatalogue:
    """A version's catalogue with all changes up to a place in the stream.

    Attributes:
        items: The version.
        catalogue: Its items.
        at: Changes up to here were applied, each once.
        lineage: See :class:`service.store.change_stream.Head`; "" until the catalogue descends from a shared snapshot.
    """

    items: VersionItems
    catalogue: Catalogue
    at: Position = START
    lineage: str = ""

    @property
    def snapshot(self) -> Snapshot:
        """As replicas share it. Vectors of trained items, most of a catalogue's bytes, stay in the bundle."""
        arrays = self.catalogue.arrays()
        vectors = arrays.pop("vectors", None)
        if vectors is not None:
            arrays[LIVE_VECTORS] = vectors[self.catalogue.trained :]
        return Snapshot(self.at, self.lineage, self.items.origin, arrays)

    @classmethod
    def of_snapshot(
        cls, items: VersionItems, snapshot: Snapshot, trained: npt.NDArray[np.float32] | None
    ) -> ReplicatedCatalogue:
        """The catalogue that a snapshot holds, checked.

        Args:
            items: The version.
            snapshot: What replicas share.
            trained: Vectors of its trained items, :meth:`model_store.bundle.bundle.Bundle.vectors`.

        Raises:
            CatalogueError: It belongs to another version, or contradicts itself.
        """
        if snapshot.origin != items.origin:
            raise CatalogueError("the snapshot does not descend from this version's catalogue")
        vectors = _with_live(trained, snapshot.arrays.get(LIVE_VECTORS))
        return cls(items, Catalogue.from_arrays(snapshot.arrays, vectors), snapshot.at, snapshot.lineage)

    def moved(self, changes: Sequence[ItemChange], at: Position) -> Moved:
        """The catalogue after these changes. Takes time: not for the event loop."""
        entries, refused = _entries(self, changes)
        catalogue = self.catalogue.with_changes(entries) if entries else self.catalogue
        return Moved(replace(self, catalogue=catalogue, at=at), refused)

    @property
    def room(self) -> int:
        """New items that still find a semantic ID: those that no item has, hidden or not."""
        levels = self.catalogue.codes.shape[1]
        return int(self.catalogue.codebook_size**levels) - len(self.catalogue)


class Moved(NamedTuple):
    """What changes led to; ``refused`` of them this version could not take."""

    replica: ReplicatedCatalogue
    refused: int


def _with_live(
    trained: npt.NDArray[np.float32] | None, came_live: npt.NDArray[np.generic] | None
) -> GrowingRows | None:
    if trained is None and came_live is None:
        return None
    if trained is None or came_live is None or came_live.shape[1:] != trained.shape[1:]:
        raise CatalogueError("the vectors of a snapshot are not those of its version")
    rows = GrowingRows(trained)
    return rows.with_rows(came_live.astype(np.float32, copy=False)) if len(came_live) else rows


def raw_changes(replica: ReplicatedCatalogue, trained: Catalogue) -> Iterator[RawChange]:
    """Changes that would lead from the catalogue as trained to this one, in the order of its rows.

    What a replica can give back to a store that lost its changes. A live item that is hidden has lost its content.
    """
    catalogue = replica.catalogue
    takes_embeddings = replica.items.bundle.manifest.embedding_source == "user"
    for row in range(len(catalogue)):
        item_id = catalogue.item_ids[row]
        if catalogue.is_hidden[row]:
            yield delete_change(item_id)
        elif row >= catalogue.trained:
            vector = catalogue.vectors[row].tolist() if takes_embeddings and catalogue.vectors is not None else None
            yield _body(catalogue, row, vector).change(item_id)
        elif _shown(catalogue, row) != _shown(trained, row):
            yield _body(catalogue, row, None).change(item_id)


def _entries(replica: ReplicatedCatalogue, changes: Sequence[ItemChange]) -> tuple[list[Change], int]:
    is_known = replica.catalogue.row_of.find([change.item_id for change in changes]) >= 0
    asked = zip(changes, is_known.tolist(), strict=True)
    encoded = replica.items.encoded(change.payload for change, known in asked if change.kind == "put" and not known)
    placer = replica.items.coder.placement(replica.catalogue)
    entries: list[Change] = []
    placed: set[str] = set()
    refused = 0
    for change, known in zip(changes, is_known.tolist(), strict=True):
        if change.kind == "delete":
            entries.append(ItemDelete(change.item_id))
        elif change.kind == "put":
            entry = _put(change)
            if entry is not None and not known and change.item_id not in placed:
                entry = _placed(replica, entry, encoded[change.payload], placer)
            if entry is None:
                refused += 1
                continue
            entries.append(entry)
            placed.add(change.item_id)
    return entries, refused


def _put(change: ItemChange) -> ItemPut | None:
    body = read_payload(change.payload)
    return None if body is None else body.put(change.item_id)


def _placed(
    replica: ReplicatedCatalogue, put: ItemPut, encoded: Encoded | ItemRefused, placer: Placer
) -> ItemPut | None:
    if isinstance(encoded, ItemRefused):
        return None  # counted by the caller; another version may well take it
    try:
        codes = placer.place(encoded.latent)
    except CatalogueFull:
        return None
    return replace(put, codes=codes, vector=None if replica.catalogue.vectors is None else encoded.vector)


def _shown(catalogue: Catalogue, row: int) -> tuple[object, ...]:
    return catalogue.titles[row], catalogue.categories[row], catalogue.attributes[row]


def _body(catalogue: Catalogue, row: int, embedding: list[float] | None) -> ItemBody:
    return ItemBody.model_construct(
        title=catalogue.titles[row],
        categories=list(catalogue.categories[row]),
        attributes=catalogue.attributes[row],
        embedding=embedding,
    )
