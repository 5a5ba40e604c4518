"""Documents of a single process, such as placements: every write first in the event log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from service.store.document_store import (
    MAX_DOCUMENTS,
    DocumentChanged,
    DocumentStore,
    OthersChanged,
    StoredDocument,
    StoredDocuments,
    TooManyDocuments,
)
from service.store.embedded_document_state import DocumentState
from service.store.embedded_state import Step


class EmbeddedDocuments(DocumentStore):
    """Documents of one kind in the memory of one process; see :class:`DocumentStore`.

    Args:
        state: The state, which only written operations change.
        commit: Writes an operation; see :meth:`service.store.embedded_writer.EmbeddedWriter.commit`.
    """

    def __init__(self, state: DocumentState, commit: Callable[[Step, bool], Awaitable[int]]) -> None:
        self._state = state
        self._commit = commit
        self._writing = asyncio.Lock()  # else two writes could both find the revision that they expect

    async def read(self, known: int) -> StoredDocuments | None:
        """Read from memory."""
        if known == self._state.revision:
            return None
        stored = self._state.stored
        changed = [each for each in stored.values() if each.revision > known]
        return StoredDocuments(self._state.revision, frozenset(stored), changed)

    async def put(
        self, name: str, payload: bytes, known: int, expected: int | None = None, *, others_unchanged: bool = False
    ) -> int:
        """Write to the log, and return after fsync. This store loses no writes."""
        line = self._state.line_type(revision=1, name=name, payload=payload.decode())
        async with self._writing:
            self._check(name, expected)
            if others_unchanged and known != self._state.revision:
                raise OthersChanged
            if name not in self._state.stored and len(self._state.stored) >= MAX_DOCUMENTS:
                raise TooManyDocuments
            return await self._commit(lambda batch: batch.add_document(line, self._state), False)

    async def delete(self, name: str, known: int, expected: int | None = None) -> int:
        """Write to the log, on a full disk as well."""
        line = self._state.line_type(revision=1, name=name)
        async with self._writing:
            self._check(name, expected)
            if name not in self._state.stored:
                return 0
            return await self._commit(lambda batch: batch.add_document(line, self._state), True)

    async def restore(self, revision: int, documents: Sequence[StoredDocument]) -> bool:
        """Return ``False``: nothing is lost."""
        return False

    def _check(self, name: str, expected: int | None) -> None:
        stored = self._state.stored.get(name)
        revision = 0 if stored is None else stored.revision
        if expected is not None and revision != expected:
            raise DocumentChanged(revision)
