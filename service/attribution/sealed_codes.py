"""Codes of items in the sealed versions of the model store, for processes that load no model."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import structlog

from model_store.attribution.names import hash_of
from model_store.bundle.registry import ModelStore
from model_store.catalogue.id_index import IdIndex
from model_store.errors import EtegrecError

log = structlog.get_logger()

KEPT_VERSIONS = 3
"""Versions whose codes are kept in memory: the live one, one beside it, and the one before."""

RETRY_S = 60.0
"""Seconds until a version that was not found is looked for again."""


class _Table(NamedTuple):
    rows: IdIndex
    codes: npt.NDArray[np.int16]  # [items], the first of each item


class SealedCodes:
    """Codes as versions were sealed: those of trained items, and of new ones that the training placed.

    A version is read when an event first needs it, which takes as long as reading its ``catalogue.parquet``. Used by
    one caller at a time.

    Args:
        store: The model store.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._tables: OrderedDict[int, _Table] = OrderedDict()  # by hash of the version, the last one used at the end
        self._missed_at: dict[int, float] = {}  # time.monotonic(), by hash

    def first_code(self, version: int, item_id: str) -> int | None:
        """Return the first code of an item; ``None`` if the version cannot be read, or was sealed without the item.

        Args:
            version: Hash of the version that answered.
            item_id: The item.
        """
        table = self._tables.get(version) or self._load(version)
        if table is None:
            return None
        self._tables.move_to_end(version)
        row = table.rows.get(item_id)
        return None if row is None else int(table.codes[row])

    def _load(self, version: int) -> _Table | None:
        if time.monotonic() - self._missed_at.get(version, -RETRY_S) < RETRY_S:
            return None

        try:
            table = self._read(version)
            cause = "the model store has no such version"
        except (EtegrecError, OSError) as failure:
            table = None
            cause = str(failure)
        if table is None:
            self._missed_at[version] = time.monotonic()
            log.warning(
                "codes_not_found", version=f"{version:08x}", cause=cause, fix="let ETEGREC_STORE name the model store"
            )
            return None

        self._tables[version] = table
        if len(self._tables) > KEPT_VERSIONS:
            self._tables.popitem(last=False)
        return table

    def _read(self, version: int) -> _Table | None:
        for name in reversed(self._store.versions()):
            if hash_of(name) == version:
                found = self._store.bundle(name).first_codes()
                return _Table(IdIndex(found.item_ids), found.codes)
        return None
