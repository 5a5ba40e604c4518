"""Canaries that were rolled back: kept in the store, so that all replicas stop within a second and stay stopped."""

from __future__ import annotations

import time

import structlog

from model_store.bundle.aliases import Alias
from model_store.errors import StoreError
from model_store.experiments.canary import Failure
from service.errors import NotFound, NotReady, RequestError
from service.schemas.models import ONE_CANARY_END, CanaryEnd
from service.store.client import StoreClient
from service.store.document_store import DocumentStore
from service.store.documents import Documents

log = structlog.get_logger()

MAX_ENDS = 100
"""Canaries that are remembered, one for each version; the oldest are forgotten first."""


class CanaryEnds(Documents[CanaryEnd]):
    """All canaries that were rolled back, by version; see :class:`~service.store.documents.Documents`.

    Those that this replica rolls back hold here at once, also while the store is away.

    Args:
        store_client: Client of the store.
        wait_s: Longest wait for a read that a request needs.
    """

    kind = "canary"

    def __init__(self, store_client: StoreClient, wait_s: float) -> None:
        super().__init__(store_client, ONE_CANARY_END, wait_s)
        self._own: dict[str, CanaryEnd] = {}  # by version, until the store has them

    @property
    def _documents(self) -> DocumentStore:
        return self._store_client.store.canaries

    def not_read(self) -> RequestError:
        """Return the error for a store that could not be asked since the start."""
        return NotReady("the store could not be asked since the start")

    def not_found(self, name: str) -> RequestError:
        """Return the error for a version that was not rolled back."""
        return NotFound("no canary of this version was rolled back")

    def conflict(self, reason: str) -> RequestError:
        """Return the error for a write that what is stored does not allow."""
        return NotReady(reason)

    def has_ended(self, alias: Alias) -> bool:
        """Tell whether a trial was rolled back; the same version with the alias anew is another trial."""
        own = self._own.get(alias.version)
        stored = self.known(alias.version)
        return (own is not None and own.key == alias.key) or (stored is not None and stored.content.key == alias.key)

    def newest_first(self) -> list[CanaryEnd]:
        """Return all that this replica knows of."""
        known = {each.name: each.content for each in self._known.values()} | self._own
        return sorted(known.values(), key=lambda end: end.at, reverse=True)

    def end(self, alias: Alias, failure: Failure) -> None:
        """Note that a trial failed; :meth:`store_own` tells the other replicas."""
        self._own[alias.version] = CanaryEnd(
            version=alias.version,
            key=alias.key,
            share=alias.share,
            figure=failure.figure,
            reason=failure.reason,
            at=int(time.time()),
        )

    async def store_own(self) -> None:
        """Store what is not stored yet. While the store is away it stays here, for the next call."""
        for version, end in list(self._own.items()):
            try:
                await self._make_room()
                await self._put(version, end, end.model_dump_json().encode(), None)
            except StoreError as failure:
                log.info("canary_end_waits", version=version, cause=str(failure), hint=failure.hint)
                return
            if self._own.get(version) is end:
                del self._own[version]

    async def _make_room(self) -> None:
        await self.read()
        ends = sorted(self._known.values(), key=lambda each: each.content.at)
        for each in ends[: max(0, len(ends) - MAX_ENDS + 1)]:
            await self.delete(each.name, None)
