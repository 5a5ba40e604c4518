"""Documents in Redis, such as placements. :mod:`model_store.replication.redis_keys` names their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from model_store.errors import StoreCorrupt
from service.store import redis_document_scripts
from service.store.document_store import (
    MAX_DOCUMENTS,
    DocumentChanged,
    DocumentStore,
    OthersChanged,
    StoredDocument,
    StoredDocuments,
    TooManyDocuments,
    lost_documents,
)
from service.store.redis_client import Arg, Script
from service.store.redis_connection import Connection


class RedisDocuments(DocumentStore):
    """Documents of one kind in one hash; see :class:`DocumentStore`.

    Args:
        connection: Connection to Redis.
        key: Name of the hash.
    """

    def __init__(self, connection: Connection, key: str) -> None:
        self._connection = connection
        self._key = key
        self._put = Script(connection.write, redis_document_scripts.PUT)
        self._delete = Script(connection.write, redis_document_scripts.DELETE)
        self._read = Script(connection.slow, redis_document_scripts.READ)
        self._restore = Script(connection.slow, redis_document_scripts.RESTORE)

    async def read(self, known: int) -> StoredDocuments | None:
        """Run one script: while nothing changes, it reads one number."""
        async with self._connection.background():
            revision, *content = await self._read([self._key], [known])
        if not content:
            return None

        names, changed = content
        rows = zip(changed[::2], changed[1::2], strict=True)
        return StoredDocuments(
            int(revision), frozenset(name.decode() for name in names), [_decode(name, value) for name, value in rows]
        )

    async def put(
        self, name: str, payload: bytes, known: int, expected: int | None = None, *, others_unchanged: bool = False
    ) -> int:
        """Run one script, which a request waits for."""
        revision = "" if expected is None else expected
        args: list[Arg] = [name, known, revision, MAX_DOCUMENTS, int(others_unchanged), payload]
        return await self._write(self._put, args)

    async def delete(self, name: str, known: int, expected: int | None = None) -> int:
        """Run one script, although Redis is out of memory."""
        return await self._write(self._delete, [name, known, "" if expected is None else expected])

    async def restore(self, revision: int, documents: Sequence[StoredDocument]) -> bool:
        """Run one script, in the background."""
        args: list[Arg] = [revision]
        for each in documents:
            args += [each.name, b"%d %b" % (each.revision, each.payload)]
        async with self._connection.background():
            return bool(await self._restore([self._key], args))

    async def _write(self, script: Script, args: list[Arg]) -> int:
        async def call(client: Redis) -> Any:
            return await script([self._key], args, client)

        outcome, revision = await self._connection.ask(call, writes=True)
        match outcome:
            case b"lost":
                raise lost_documents()
            case b"changed":
                raise DocumentChanged(int(revision))
            case b"others":
                raise OthersChanged
            case b"full":
                raise TooManyDocuments
        return int(revision)


def _decode(name: bytes, value: bytes) -> StoredDocument:
    revision, _, payload = value.partition(b" ")
    if not revision.isdigit():
        raise StoreCorrupt("a stored document has no revision", "another program uses the same prefix")
    return StoredDocument(name.decode(), int(revision), payload)
