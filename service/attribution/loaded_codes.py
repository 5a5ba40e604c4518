"""Codes of items in the versions that this replica has loaded, for events that count by code."""

from __future__ import annotations

from collections.abc import Sequence

from model_store.attribution.names import hash_of
from service.models.slot import ModelSlot


class LoadedCodes:
    """Codes in the models of some slots. Thread-safe.

    Args:
        slots: The slots.
    """

    def __init__(self, slots: Sequence[ModelSlot]) -> None:
        self._slots = slots

    def first_code(self, version: int, item_id: str) -> int | None:
        """Return the first code of an item; ``None`` if the version is not loaded, or lacks it.

        Args:
            version: Hash of the version that answered.
            item_id: The item.
        """
        for slot in self._slots:
            model = slot.current
            if model is not None and hash_of(model.version) == version:
                row = model.catalogue.row(item_id)
                return None if row is None else int(model.catalogue.codes[row, 0])
        return None
