"""Source of a version's catalogue: its bundle, and the coder that encodes and places new items."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from model_store.bundle.bundle import Bundle
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.resemblances import Records
from model_store.errors import ItemRefused
from model_store.replication.item_payload import NewItem
from service.schemas.items import StoredItem, read_payload


class Encoded(Protocol):
    """Result of encoding one item."""

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """Vector of unit length for dense scores, [d_s]."""

    @property
    def latent(self) -> npt.NDArray[np.float32]:
        """Latent vector for placement, [d_c]."""

    @property
    def resemblance(self) -> Records:
        """Record of the items that it resembles and of its words, [1]."""


class Placer(Protocol):
    """Placer of encoded items: gives them their codes, one after another."""

    def place(self, latent: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
        """Return codes [L], which are taken from now on; raise :class:`CatalogueFull` if none are left."""


class ItemCoder(Protocol):
    """Coder of items that a version was not trained on, such as ``new_items.item_encoder.ItemEncoder``.

    Deterministic and thread-safe.
    """

    def encode_all(self, items: Sequence[NewItem]) -> Sequence[Encoded | ItemRefused]:
        """Encode each item as if it were the only one; return the reason in the place of one that cannot be encoded."""

    def placement(self, catalogue: Catalogue) -> Placer:
        """Return a placer of items into this catalogue."""


CATALOGUE_FILE = "catalogue.parquet"
PRECOMPUTED_ITEMS = 200_000
"""Largest number of encodings kept until their change is applied; beyond it, the oldest are computed again."""


class PrecomputedEncodings:
    """Encodings of items that were encoded to check them, kept until their change is read back. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._encoded: dict[bytes, Encoded] = {}

    def put(self, payload: bytes, encoded: Encoded) -> None:
        """Keep the encoding of a payload."""
        with self._lock:
            self._encoded[payload] = encoded
            if len(self._encoded) > PRECOMPUTED_ITEMS:
                del self._encoded[next(iter(self._encoded))]

    def take(self, payload: bytes) -> Encoded | None:
        """Remove and return the encoding of a payload, ``None`` if there is none."""
        with self._lock:
            return self._encoded.pop(payload, None)


@dataclass(frozen=True, eq=False)
class CatalogueSource:
    """Source of a version's catalogue: the bundle with its trained items, and the coder of new items.

    Attributes:
        bundle: Bundle of the version.
        coder: Encodes and places new items.
        precomputed: Encodings that were computed before their change was applied.
    """

    bundle: Bundle
    coder: ItemCoder
    precomputed: PrecomputedEncodings = field(default_factory=PrecomputedEncodings)

    @property
    def version(self) -> str:
        """Name of the version."""
        return self.bundle.version

    def encode(self, bodies: Sequence[StoredItem]) -> Sequence[Encoded | ItemRefused]:
        """Encode items; return the reason in the place of one that this version cannot encode."""
        return self.coder.encode_all(
            [NewItem(body.title, body.unique_categories, body.named_attributes, body.embedding) for body in bodies]
        )

    def encode_payloads(self, payloads: Iterable[bytes]) -> Mapping[bytes, Encoded | ItemRefused]:
        """Encode payloads of new items, each once; leave out those that this release cannot read."""
        found: dict[bytes, Encoded | ItemRefused] = {}
        missing: dict[bytes, StoredItem] = {}
        for payload in dict.fromkeys(payloads):
            if (encoded := self.precomputed.take(payload)) is not None:
                found[payload] = encoded
            elif (body := read_payload(payload)) is not None:
                missing[payload] = body

        found.update(zip(missing, self.encode(list(missing.values())), strict=True))
        return found

    @property
    def origin(self) -> str:
        """SHA-256 of the catalogue as trained, from which all snapshots of this version descend."""
        return self.bundle.manifest.files[CATALOGUE_FILE].sha256
