"""Manager of the catalogue's items: finds them, and accepts changes from clients.

A change is acknowledged when this replica has read it back from the stream and swapped the new catalogue in, so the
next request here sees it. Other replicas read it within ``catalogue_poll_s`` and the time that a step takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from model_store.errors import ItemRefused
from model_store.new_items.features import says_something
from service.catalogue.updater import CatalogueUpdater
from service.errors import CatalogueIsFull, InvalidFields, InvalidLines, NotFound
from service.field_errors import FieldError
from service.models.loaded_model import LoadedModel
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.schemas.items import MAX_PAYLOAD_BYTES, ItemPatch, StoredItem, delete_change, read_payload
from service.store.change_stream import APPEND_LIMIT, Position, RawChange
from service.store.client import StoreClient

K = TypeVar("K")

BULK_STEP = 1024
"""Least number of items of a bulk upload that are applied together. Single changes wait for one such part."""
BULK_SHARE = 256
"""Parts of a bulk upload are at least a 256th of the catalogue, because each part copies the catalogue."""
_CHECKED = 4096  # items checked together
SHOWN_LINES = 100
"""Largest number of wrong lines of a bulk upload that are listed."""
_UNKNOWN = "the catalogue has no item with this id"


class Line(NamedTuple):
    """Item of a bulk upload."""

    number: int  # from 1, for reports
    change: RawChange


@dataclass(frozen=True)
class Written:
    """Change that this replica answers with from now on.

    Attributes:
        model: Model whose catalogue contains the change.
        row: Row of the item in that catalogue.
        revision: Revision of the change.
        took_ms: Milliseconds from the call to the swap.
    """

    model: LoadedModel
    row: int
    revision: int
    took_ms: float


@dataclass(frozen=True)
class BulkWritten:
    """Bulk upload that this replica answers with from now on.

    ``new`` items were not known before; nothing could be read of those that ``say_nothing``.
    """

    items: int
    new: int
    say_nothing: int
    revision: int
    took_ms: float


class CatalogueManager:
    """Manager of the items of whichever model answers. Used from one event loop."""

    def __init__(self, updater: CatalogueUpdater, store_client: StoreClient) -> None:
        self._updater = updater
        self._store_client = store_client
        self._bulk_uploading = asyncio.Lock()
        self._appending = asyncio.Lock()

    async def find(self, item_id: str) -> tuple[LoadedModel, int]:
        """Return the answering model and the row of an item, hidden or not.

        Raises:
            NotFound: The catalogue lacks it.
            NotReady: No model is loaded.
        """
        model, _ = self._updater.current()
        row = model.catalogue.row(item_id)
        if row is None:
            await self._updater.try_step()  # another replica may have acknowledged the item a moment ago
            model, _ = self._updater.current()
            row = model.catalogue.row(item_id)

        if row is None:
            raise NotFound(_UNKNOWN)
        return model, row

    async def put(self, item_id: str, body: StoredItem) -> Written:
        """Add or update one item.

        Raises:
            CatalogueIsFull: No semantic ID is left for it.
            InvalidFields: It is too large, or this version cannot encode it.
            StoreError: The change could not be stored, or not be read back in time; it is harmless to repeat it.
            NotReady: No model is loaded.
        """
        started = time.monotonic()
        check_size(body)
        model, replica = self._updater.current()
        is_known = model.catalogue.row(item_id) is not None
        if not is_known and replica.room < 1:
            raise CatalogueIsFull(replica.room)

        if not is_known or body.embedding is not None:
            new = set() if is_known else {item_id}
            _raise_refused(await asyncio.to_thread(_check_items, replica, {item_id: body}, new))

        at = await self._append([body.change(item_id)])
        model = await self._updater.catch_up(at.revision)
        row = model.catalogue.row(item_id)
        if row is None:  # others took the last room at the same moment
            raise CatalogueIsFull(0)
        return Written(model, row, at.revision, _ms_since(started))

    async def patch(self, item_id: str, patch: ItemPatch) -> Written:
        """Change some fields of an item, hide it, or bring it back with the content that it had.

        The item is read and written while no other change of this replica comes in between, after every change was
        read that any replica had acknowledged. If two replicas patch one item at the same moment, the later one wins.

        Raises:
            NotFound: The catalogue lacks the item.
            InvalidFields: The item would not be valid, or this version cannot encode the embedding.
            StoreError, NotReady: As for :meth:`put`.
        """
        started = time.monotonic()
        async with self._appending:
            model, replica = await self._read_everything()
            row = model.catalogue.row(item_id)
            if row is None:
                raise NotFound(_UNKNOWN)

            known = replica.stored_item(row)
            body, is_hidden = _apply(patch, known, is_hidden=bool(model.catalogue.is_hidden[row]))
            if patch.embedding is not None:
                _raise_refused(await asyncio.to_thread(_check_items, replica, {item_id: body}, set()))

            changes = [body.change(item_id), *([delete_change(item_id)] if is_hidden else [])]
            with self._store_client.traced("append"):
                at = await self._store_client.store.catalogue.append(changes, model.revision)
        return await self._written(item_id, at, started)

    async def delete(self, item_id: str) -> Written:
        """Hide one item. After this returns, no answer of this replica contains it.

        Raises:
            NotFound: The catalogue lacks it.
            StoreError, NotReady: As for :meth:`put`.
        """
        started = time.monotonic()
        await self.find(item_id)

        at = await self._append([delete_change(item_id)])
        return await self._written(item_id, at, started)

    async def put_all(self, lines: Sequence[Line]) -> BulkWritten:
        """Add or update many items, after all of them were checked. One call at a time does its work.

        A crash of this process or of the store in between can leave the first items stored, each of them whole. The
        same upload again stores the rest and changes nothing else.

        Raises:
            CatalogueIsFull: There is no room for all new items.
            InvalidLines: This version cannot encode some of the items.
            StoreError, NotReady: As for :meth:`put`.
        """
        started = time.monotonic()
        async with self._bulk_uploading:
            model, replica = self._updater.current()
            new = await asyncio.to_thread(_find_new, model, lines)
            if len(new) > replica.room:
                raise CatalogueIsFull(replica.room)

            say_nothing = await asyncio.to_thread(_check_lines, replica, lines, new)
            revision = await self._append_all([line.change for line in lines])

        return BulkWritten(len(lines), len(new), say_nothing, revision, _ms_since(started))

    async def _append_all(self, changes: Sequence[RawChange]) -> int:
        """Append changes part by part and return the last revision.

        Each part is applied before the next one is appended, so that other changes come in between.
        """
        revision = 0
        model, _ = self._updater.current()
        size = max(BULK_STEP, len(model.catalogue) // BULK_SHARE)

        for start in range(0, len(changes), size):
            part = changes[start : start + size]
            for at in range(0, len(part), APPEND_LIMIT):
                revision = (await self._append(part[at : at + APPEND_LIMIT])).revision
            await self._updater.catch_up(revision)

        return revision

    async def _append(self, changes: Sequence[RawChange]) -> Position:
        """Append changes, if the stream holds at least what this replica has read."""
        async with self._appending:
            model, _ = self._updater.current()
            with self._store_client.traced("append"):
                return await self._store_client.store.catalogue.append(changes, model.revision)

    async def _read_everything(self) -> tuple[LoadedModel, ReplicatedCatalogue]:
        """Return the answering model and its catalogue with every change that the store holds now."""
        model, replica = self._updater.current()
        tail = await self._store_client.store.catalogue.read_tail(model.version, replica.at, limit=1)
        await self._updater.catch_up(tail.latest_revision)
        return self._updater.current()

    async def _written(self, item_id: str, at: Position, started: float) -> Written:
        """Wait until this replica has applied a change of a known item."""
        model = await self._updater.catch_up(at.revision)
        row = model.catalogue.row(item_id)
        if row is None:  # the version changed meanwhile, and the new one never had it
            raise NotFound(_UNKNOWN)
        return Written(model, row, at.revision, _ms_since(started))


def _apply(patch: ItemPatch, item: StoredItem, *, is_hidden: bool) -> tuple[StoredItem, bool]:
    """Return the patched item, and whether it is hidden; raise :class:`InvalidFields` if it is no valid item."""
    try:
        body, is_hidden = patch.apply(item, is_hidden=is_hidden)
    except ValidationError as refused:
        wrong = refused.errors(include_url=False, include_input=False, include_context=False)[0]
        message = f"the patched item would not be valid: {wrong['msg']}"
        raise InvalidFields([FieldError(str(wrong["loc"][0]), message)]) from None

    is_carried_over = patch.embedding is None  # then the embedding does not count
    counted = body.model_copy(update={"embedding": None}) if is_carried_over else body
    before = item.model_copy(update={"embedding": None})
    if len(counted.payload()) > len(before.payload()):  # an item of the items file may be larger than clients' ones
        check_size(counted)
    return body, is_hidden


def check_size(body: StoredItem) -> None:
    """Raise :class:`InvalidFields` if an item is larger than the change stream takes."""
    size = len(body.payload())
    if size > MAX_PAYLOAD_BYTES:
        message = f"must be at most {MAX_PAYLOAD_BYTES} bytes long, not {size}"
        raise InvalidFields([FieldError("", message, limit=MAX_PAYLOAD_BYTES)])


def _raise_refused(refused: Mapping[str, ItemRefused]) -> None:
    if refused:
        raise InvalidFields([FieldError(each.field, each.advice) for each in refused.values()])


def _find_new(model: LoadedModel, lines: Sequence[Line]) -> set[str]:
    """Return the ids of items that the catalogue does not have."""
    item_ids = list(dict.fromkeys(line.change.item_id for line in lines))
    rows = model.catalogue.row_of.find(item_ids).tolist()
    return {item_id for item_id, row in zip(item_ids, rows, strict=True) if row < 0}


def _check_lines(replica: ReplicatedCatalogue, lines: Sequence[Line], new: set[str]) -> int:
    """Return how many lines of new items say nothing.

    Raises:
        InvalidLines: Some of the items cannot be encoded.
    """
    wrong: list[FieldError] = []
    say_nothing = 0
    for start in range(0, len(lines), _CHECKED):
        bodies: dict[int, StoredItem] = {}
        is_new: set[int] = set()
        for line in lines[start : start + _CHECKED]:
            item_id, _, payload = line.change
            if item_id not in new and b'"embedding"' not in payload:
                continue  # nothing to encode

            body = read_payload(payload)
            if body is not None:
                bodies[line.number] = body
            if item_id in new:
                is_new.add(line.number)
                say_nothing += body is not None and _says_nothing(body)

        refused = _check_items(replica, bodies, is_new)
        wrong += [FieldError(f"{number}.{each.field}", each.advice) for number, each in refused.items()]

    if wrong:
        raise InvalidLines(len(wrong), wrong[:SHOWN_LINES])
    return say_nothing


def _says_nothing(body: StoredItem) -> bool:
    return body.embedding is None and not says_something(body.title, body.categories, body.attributes)


def _check_items(replica: ReplicatedCatalogue, bodies: Mapping[K, StoredItem], new: Set[K]) -> dict[K, ItemRefused]:
    """Encode new items and those with an embedding; return the reasons for those that cannot be encoded.

    Encodings of new items are kept until the change comes back from the stream.
    """
    to_encode = {key: body for key, body in bodies.items() if key in new or body.embedding is not None}
    encoded = replica.source.encode(list(to_encode.values()))

    refused: dict[K, ItemRefused] = {}
    for (key, body), found in zip(to_encode.items(), encoded, strict=True):
        if isinstance(found, ItemRefused):
            refused[key] = found
        elif key in new:
            replica.source.precomputed.put(body.payload(), found)
    return refused


def _ms_since(started: float) -> float:
    return (time.monotonic() - started) * 1000
