"""Dry run of a new item: the catalogue as it would be with it, which nobody else sees."""

from __future__ import annotations

import uuid
from typing import NamedTuple

from model_store.errors import ItemRefused
from service.catalogue.manager import check_size
from service.errors import CatalogueIsFull, InvalidFields
from service.field_errors import FieldError
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.schemas.items import StoredItem
from service.store.change_stream import ItemChange


class Added(NamedTuple):
    """A catalogue with one more item than the one that answers."""

    replica: ReplicatedCatalogue
    row: int  # of the new item


def add_unstored(replica: ReplicatedCatalogue, body: StoredItem) -> Added:
    """Return the catalogue with a new item, placed as a ``PUT`` of it would place it.

    Takes time: not for the event loop. Nothing is stored, and the given catalogue stays as it is. The next item that
    really joins it copies its arrays once, since their spare rows are taken.

    Raises:
        InvalidFields: The item is too large, or this version cannot encode it.
        CatalogueIsFull: No semantic ID is left.
    """
    check_size(body)
    if replica.room < 1:
        raise CatalogueIsFull(replica.room)
    [encoded] = replica.source.encode([body])
    if isinstance(encoded, ItemRefused):
        raise InvalidFields([FieldError(encoded.field, encoded.advice)])

    change = body.change(f"preview-{uuid.uuid4().hex}")
    applied = replica.apply([ItemChange(replica.at, *change)], replica.at)
    row = applied.replica.catalogue.row(change.item_id)
    if row is None:
        raise CatalogueIsFull(0)
    return Added(applied.replica, row)
