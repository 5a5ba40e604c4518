"""Keeps the answering model's catalogue at the end of the change stream, and writes changes to it.

A write is acknowledged when this replica has read it back from the stream and swapped the new catalogue in, so whoever
asks it next sees the change. Other replicas read it within ``catalogue_poll_s`` and the time that a step takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import structlog

from model_store.errors import ItemRefused, StoreError, StoreUnavailable
from service.errors import CatalogueIsFull, FieldError, InvalidFields, InvalidLines, NotFound, NotReady
from service.models.loaded_model import LoadedModel
from service.models.manager import ModelManager
from service.replication.follower import CatalogueFollower
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.schemas.items import ItemBody, delete_change, read_payload
from service.settings import Settings
from service.store.change_stream import APPEND_LIMIT, Position, RawChange
from service.store.client import StoreClient
from service.telemetry import Telemetry

K = TypeVar("K")

log = structlog.get_logger()

BULK_STEP, BULK_SHARE = 1024, 256
"""Items of a bulk upload that are applied together, or the share of the catalogue that they are, whichever is more:
single changes wait for no more than those, and each step copies the catalogue."""
_CHECKED = 4096  # items checked together
SHOWN_LINES = 100
"""Wrong lines of a bulk upload that are listed at most."""
_UNKNOWN = "the catalogue has no item with this id"


class Line(NamedTuple):
    """One item of a bulk upload."""

    number: int  # from 1, for reports
    change: RawChange


@dataclass(frozen=True)
class Written:
    """A change that this replica answers with from now on.

    Attributes:
        model: Contains it.
        row: Of the item in its catalogue.
        revision: Of the change.
        took_ms: From the call to the swap.
    """

    model: LoadedModel
    row: int
    revision: int
    took_ms: float


@dataclass(frozen=True)
class BulkWritten:
    """Many changes that this replica answers with from now on; ``new`` items were not known before."""

    items: int
    new: int
    revision: int
    took_ms: float


class CatalogueManager:
    """Follows the change stream for whichever model answers. Used from one event loop."""

    def __init__(
        self,
        models: ModelManager,
        follower: CatalogueFollower,
        store_client: StoreClient,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._models = models
        self._follower = follower
        self._store_client = store_client
        self._settings = settings
        self._telemetry = telemetry
        self._stepping = asyncio.Lock()
        self._bulk = asyncio.Lock()

    async def watch(self) -> None:
        """Follow the stream, until cancelled."""
        is_failing = False
        while True:
            try:
                has_moved = await self.step()
                is_failing = False
            except StoreError as failure:
                has_moved = False
                self._store_client.note_behind(behind=True)
                if not is_failing:  # once an outage, not ten times a second
                    log.warning("changes_unavailable", cause=str(failure), hint=failure.hint)
                is_failing = True
            except Exception:
                has_moved = False
                log.exception("catalogue_step_crashed")
            await asyncio.sleep(0 if has_moved else self._settings.catalogue_poll_s)

    async def step(self) -> bool:
        """Read the stream once, compute the catalogue aside and swap it in; whether it has moved.

        Raises:
            StoreError: The store cannot be asked now.
        """
        async with self._stepping:
            model = self._models.current
            if model is None or model.replica is None:
                return False
            replica = await self._follower.follow(model.replica)
            if replica is model.replica:
                return False
            newer = await asyncio.to_thread(model.with_catalogue, replica, self._settings.rule_cache_entries)
            if self._models.swap_catalogue(model, newer):
                self._telemetry.catalogue_revision.set(newer.revision)
            return True

    async def find(self, item_id: str) -> tuple[LoadedModel, int]:
        """The answering model and the row of an item, hidden or not.

        Raises:
            NotFound: The catalogue lacks it.
            NotReady: No model is loaded.
        """
        model, _ = self._ready()
        row = model.catalogue.row(item_id)
        if row is None:
            await self._step_if_possible()  # another replica may have acknowledged it a moment ago
            model, _ = self._ready()
            row = model.catalogue.row(item_id)
        if row is None:
            raise NotFound(_UNKNOWN)
        return model, row

    async def put(self, item_id: str, body: ItemBody) -> Written:
        """Add or update one item.

        Raises:
            CatalogueIsFull: No semantic ID is left for it.
            InvalidFields: This version cannot encode it.
            StoreError: It could not be stored, or not be read back in time: repeating it is harmless.
            NotReady: No model is loaded.
        """
        started = time.monotonic()
        model, replica = self._ready()
        is_known = model.catalogue.row(item_id) is not None
        if not is_known and replica.room < 1:
            raise CatalogueIsFull(replica.room)
        if not is_known or body.embedding is not None:
            wrong = await asyncio.to_thread(_refused, replica, {item_id: body}, set() if is_known else {item_id})
            if wrong:
                raise InvalidFields([FieldError(each.field, each.advice) for each in wrong.values()])
        at = await self._append([body.change(item_id)])
        model = await self._reached(at.revision)
        row = model.catalogue.row(item_id)
        if row is None:  # others took the last room at the same moment
            raise CatalogueIsFull(0)
        return Written(model, row, at.revision, _ms_since(started))

    async def delete(self, item_id: str) -> Written:
        """Hide one item. When this returns, no answer of this replica contains it any more.

        Raises:
            NotFound: The catalogue lacks it.
            StoreError, NotReady: As for :meth:`put`.
        """
        started = time.monotonic()
        await self.find(item_id)
        at = await self._append([delete_change(item_id)])
        model = await self._reached(at.revision)
        row = model.catalogue.row(item_id)
        if row is None:  # the version changed meanwhile, and the new one never had it
            raise NotFound(_UNKNOWN)
        return Written(model, row, at.revision, _ms_since(started))

    async def put_all(self, lines: Sequence[Line]) -> BulkWritten:
        """Add or update many items: everything is checked before the first one is stored.

        A crash of this process or of the store in between can leave the first items stored; all of them are whole, and
        sending the same items again completes the rest and changes nothing else. One call at a time is worked on.

        Raises:
            CatalogueIsFull: There is no room for all new ones.
            InvalidLines: This version cannot encode some of them.
            StoreError, NotReady: As for :meth:`put`.
        """
        started = time.monotonic()
        async with self._bulk:
            model, replica = self._ready()
            new = await asyncio.to_thread(_unknown, model, lines)
            if len(new) > replica.room:
                raise CatalogueIsFull(replica.room)
            await asyncio.to_thread(_check_all, replica, lines, new)
            revision = await self._write_all([line.change for line in lines])
        return BulkWritten(len(lines), len(new), revision, _ms_since(started))

    async def _write_all(self, changes: Sequence[RawChange]) -> int:
        """Part by part, each applied before the next is appended: what others write meanwhile comes in between."""
        revision, size = 0, max(BULK_STEP, len(self._ready()[0].catalogue) // BULK_SHARE)
        for start in range(0, len(changes), size):
            part = changes[start : start + size]
            for at in range(0, len(part), APPEND_LIMIT):
                revision = (await self._append(part[at : at + APPEND_LIMIT])).revision
            await self._reached(revision)
        return revision

    async def _reached(self, revision: int) -> LoadedModel:
        """The answering model, once its catalogue contains a revision that is stored already."""
        reached, give_up_at = -1, 0.0
        while (model := self._ready()[0]).revision < revision:
            if model.revision > reached:
                reached, give_up_at = model.revision, time.monotonic() + self._settings.catalogue_wait_s
            elif time.monotonic() > give_up_at:
                raise StoreUnavailable("the change is stored, but was not applied in time", "it will be, or repeat it")
            if not await self.step() and self._models.current is model:
                await asyncio.sleep(self._settings.catalogue_poll_s)
        return model

    async def _append(self, changes: Sequence[RawChange]) -> Position:
        """To the end of a stream that holds at least what this replica has read."""
        return await self._store_client.store.catalogue.append(changes, self._ready()[0].revision)

    async def _step_if_possible(self) -> None:
        """Where the store cannot be asked, the answer is what this replica knows: nobody waits for one that hangs."""
        if not self._store_client.is_up:
            return
        try:
            async with asyncio.timeout(self._settings.deadline_ms / 1000):
                await self.step()
        except (StoreError, TimeoutError) as failure:
            log.info("changes_unavailable", cause=str(failure))

    def _ready(self) -> tuple[LoadedModel, ReplicatedCatalogue]:
        model = self._models.current
        if model is None or model.replica is None:
            raise NotReady(self._models.problem)
        return model, model.replica


def _unknown(model: LoadedModel, lines: Sequence[Line]) -> set[str]:
    item_ids = list(dict.fromkeys(line.change.item_id for line in lines))
    rows = model.catalogue.row_of.find(item_ids).tolist()
    return {item_id for item_id, row in zip(item_ids, rows, strict=True) if row < 0}


def _check_all(replica: ReplicatedCatalogue, lines: Sequence[Line], new: set[str]) -> None:
    wrong: list[FieldError] = []
    for start in range(0, len(lines), _CHECKED):
        part = lines[start : start + _CHECKED]
        asked = [line for line in part if line.change.item_id in new or b'"embedding"' in line.change.payload]
        bodies = {line.number: read_payload(line.change.payload) for line in asked}
        is_new = {line.number for line in asked if line.change.item_id in new}
        refused = _refused(replica, {number: body for number, body in bodies.items() if body is not None}, is_new)
        wrong += [FieldError(f"{number}.{each.field}", each.advice) for number, each in refused.items()]
    if wrong:
        raise InvalidLines(len(wrong), wrong[:SHOWN_LINES])


def _refused(replica: ReplicatedCatalogue, bodies: Mapping[K, ItemBody], new: Set[K]) -> dict[K, ItemRefused]:
    """Which of these items cannot be encoded, and why; what new ones gave waits for the change to come back."""
    asked = {key: body for key, body in bodies.items() if key in new or body.embedding is not None}
    found = dict(zip(asked, replica.items.encode(list(asked.values())), strict=True))
    for key, each in found.items():
        if key in new and not isinstance(each, ItemRefused):
            replica.items.ahead.keep(asked[key].payload(), each)
    return {key: each for key, each in found.items() if isinstance(each, ItemRefused)}


def _ms_since(started: float) -> float:
    return (time.monotonic() - started) * 1000
