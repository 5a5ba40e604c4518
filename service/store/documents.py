"""Documents of this replica, such as placements: read from the store, kept in memory, the same on all replicas."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import structlog
from pydantic import TypeAdapter, ValidationError

from model_store.errors import StoreError
from service.async_tasks import Expected, repeat_until_cancelled
from service.errors import InvalidFields, RequestError
from service.field_errors import FieldError
from service.store.client import StoreClient
from service.store.document_store import (
    MAX_DOCUMENTS,
    DocumentChanged,
    DocumentStore,
    StoredDocument,
    StoredDocuments,
    TooManyDocuments,
)

log = structlog.get_logger()

T = TypeVar("T")

POLL_S = 0.5
"""Seconds between two looks at the store: every replica has a write within a second."""

MAX_DOCUMENT_BYTES = 256 * 1024
"""Largest size of a stored document, in bytes of JSON."""


class Named(NamedTuple, Generic[T]):
    """A document with its name."""

    name: str
    revision: int
    content: T
    payload: bytes


class Documents(ABC, Generic[T]):
    """All documents of one kind, as last read. Used from one event loop.

    While the store is away the last ones stay. A store that has lost writes gets them back.

    Args:
        store_client: Client of the store.
        adapter: Reads the content of one.
        wait_s: Longest wait for a read that a request needs.
    """

    kind: str
    """One word for a document in messages."""

    def __init__(self, store_client: StoreClient, adapter: TypeAdapter[T], wait_s: float) -> None:
        self.revision = 0
        self._store_client = store_client
        self._adapter = adapter
        self._wait_s = wait_s
        self._known: Mapping[str, Named[T]] = {}
        self._is_read = False
        self._reads = 0  # that have begun
        self._busy = asyncio.Lock()

    @property
    @abstractmethod
    def _documents(self) -> DocumentStore:
        """Part of the store that keeps them."""

    @abstractmethod
    def not_read(self) -> RequestError:
        """Return the error for a store that could not be asked since the start."""

    @abstractmethod
    def not_found(self, name: str) -> RequestError:
        """Return the error for a name that no document has."""

    @abstractmethod
    def conflict(self, reason: str) -> RequestError:
        """Return the error for a write that what is stored does not allow."""

    def all(self) -> list[Named[T]]:
        """Return all documents by name.

        Raises:
            RequestError: The store could not be asked since the start, see :meth:`not_read`.
        """
        if not self._is_read:
            raise self.not_read()
        return [self._known[name] for name in sorted(self._known)]

    @property
    def is_read(self) -> bool:
        """Whether the store could be asked since the start."""
        return self._is_read

    def known(self, name: str) -> Named[T] | None:
        """Return a document if this replica has it, without asking the store."""
        return self._known.get(name)

    async def read_first(self) -> None:
        """Read the documents if this has not happened since the start, and the store answers in time."""
        if not self._is_read:
            await self._catch_up()

    async def find(self, name: str) -> Named[T]:
        """Return a document; another replica may have acknowledged it a moment ago, so the store is asked then.

        Raises:
            RequestError: There is none of this name, or the store could not be asked since the start.
        """
        if name not in self._known:
            await self._catch_up()

        document = self._known.get(name)
        if document is not None:
            return document
        if not self._is_read:
            raise self.not_read()
        raise self.not_found(name)

    async def _put(
        self, name: str, content: T, payload: bytes, expected: int | None, checked_at: int | None = None
    ) -> Named[T]:
        """Store a document; this replica uses it when this returns.

        Args:
            name: Its name.
            content: Its content.
            payload: The same, as it is stored.
            expected: Revision of the document that it replaces, 0 for none; ``None``: whichever.
            checked_at: Revision up to which the caller has compared it with all others, if it must fit them.

        Raises:
            InvalidFields: It is too large.
            RequestError: Another revision is stored, or there are too many documents, see :meth:`conflict`.
            OthersChanged: Another one was written after ``checked_at``.
            StoreError: It could not be stored; without ``expected`` it is harmless to repeat it.
        """
        if len(payload) > MAX_DOCUMENT_BYTES:
            message = f"must be at most {MAX_DOCUMENT_BYTES} bytes long, not {len(payload)}"
            raise InvalidFields([FieldError("", message, limit=MAX_DOCUMENT_BYTES)])

        async with self._busy:
            try:
                with self._store_client.traced(f"put_{self.kind}"):
                    known = self.revision if checked_at is None else checked_at
                    revision = await self._documents.put(
                        name, payload, known, expected, others_unchanged=checked_at is not None
                    )
            except DocumentChanged as changed:
                raise self._other_revision(name, expected, changed) from None
            except TooManyDocuments:
                raise self.conflict(f"there are {MAX_DOCUMENTS} {self.kind}s already: delete one") from None

            document = Named(name, revision, content, payload)
            self._known = {**self._known, name: document}
            self._note_own(revision)
        return document

    async def delete(self, name: str, expected: int | None) -> int:
        """Delete a document, and return the number of this write. Raises like :meth:`_put` and :meth:`find`."""
        async with self._busy:
            try:
                with self._store_client.traced(f"delete_{self.kind}"):
                    revision = await self._documents.delete(name, self.revision, expected)
            except DocumentChanged as changed:
                raise self._other_revision(name, expected, changed) from None

            self._known = {known: each for known, each in self._known.items() if known != name}
            self._note_own(revision)
        if not revision:
            raise self.not_found(name)
        return revision

    def _note_own(self, revision: int) -> None:
        """Note the number of a write of this replica; if others came in between, they must be read first."""
        if revision == self.revision + 1:
            self.revision = revision
            self._is_read = True

    async def watch(self) -> None:
        """Read what other replicas wrote, until cancelled."""
        await repeat_until_cancelled(
            self.read,
            POLL_S,
            on_crash=partial(log.exception, "documents_crashed", kind=self.kind),
            expected=Expected(StoreError, self._log_outage),
        )

    def _log_outage(self, failure: StoreError, is_first: bool) -> None:
        if is_first:
            log.warning("documents_not_read", kind=self.kind, cause=str(failure), hint=failure.hint)

    async def read(self) -> None:
        """Read what changed since the last time; give a store that lost writes what this replica knows.

        Raises:
            StoreError: The store is away, or an entry does not decode.
        """
        async with self._busy:
            await self._read()

    async def _read(self) -> None:
        self._reads += 1
        found = await self._documents.read(self.revision)
        self._is_read = True
        if found is None:
            return

        if found.revision < self.revision:
            stored = [StoredDocument(each.name, each.revision, each.payload) for each in self._known.values()]
            if await self._documents.restore(self.revision, stored):
                log.warning("documents_given_back", kind=self.kind, documents=len(stored))
            return
        self._take(found)

    def _take(self, found: StoredDocuments) -> None:
        """Keep what was read. A document that a newer release wrote, and this one cannot read, is left out."""
        known = {name: each for name, each in self._known.items() if name in found.names}
        for stored in found.changed:
            known.pop(stored.name, None)
            try:
                content = self._adapter.validate_json(stored.payload, strict=True)
            except ValidationError as refused:
                log.warning(
                    "document_not_readable", kind=self.kind, document=stored.name, problems=refused.error_count()
                )
            else:
                known[stored.name] = Named(stored.name, stored.revision, content, stored.payload)

        self._known = known
        self.revision = found.revision

    async def _catch_up(self) -> None:
        """Read the store, if it answers in time and nobody else did since this was called."""
        if not self._store_client.is_up:
            return

        reads = self._reads
        try:
            async with asyncio.timeout(self._wait_s), self._busy:
                if self._reads == reads:
                    await self._read()
        except (StoreError, TimeoutError) as failure:
            log.info("documents_not_read", kind=self.kind, cause=str(failure))

    def _other_revision(self, name: str, expected: int | None, changed: DocumentChanged) -> RequestError:
        if not changed.revision:
            reason = f"there is no {self.kind} {name}, but revision {expected} was expected"
        elif not expected:
            reason = f"the {self.kind} {name} exists already, with revision {changed.revision}"
        else:
            reason = f"the {self.kind} {name} has revision {changed.revision} by now, not {expected}"
        return self.conflict(f"{reason}: read it and repeat the write")
