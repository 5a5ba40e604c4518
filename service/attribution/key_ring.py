"""Keys that sign and verify attributions: those of the settings, or the one that the store keeps."""

from __future__ import annotations

import asyncio

import structlog

from model_store.attribution.keys import AttributionKeys, new_secret
from model_store.errors import StoreError
from service.settings import Settings
from service.store.counter_store import CounterStore

log = structlog.get_logger()


class KeyRing:
    """Keys of this shop.

    Args:
        settings: May bring the keys.
        counters: Part of the store that keeps a key if they do not.

    Raises:
        ConfigError: A key of the settings is too short.
    """

    def __init__(self, settings: Settings, counters: CounterStore) -> None:
        self._namespace = settings.namespace
        self._counters = counters
        self._finding = asyncio.Lock()  # two proposals at once would be one too many for the embedded store
        self._keys = AttributionKeys.configured(settings.attribution_keys.get_secret_value(), settings.namespace)

    @property
    def current(self) -> AttributionKeys | None:
        """The keys; ``None`` while the store that keeps them has not been reached since the start."""
        return self._keys

    async def find(self) -> AttributionKeys:
        """Return the keys, asking the store if they are not known yet.

        Raises:
            StoreError: It is not there, or its key does not decode.
        """
        async with self._finding:
            if self._keys is None:
                secret = await self._counters.key(new_secret())
                self._keys = AttributionKeys.of([secret], self._namespace)
            return self._keys

    async def try_to_find(self) -> None:
        """Do the same; while the store is away, answers go on without attribution."""
        try:
            await self.find()
        except StoreError as failure:
            log.debug("attribution_key_not_found", cause=str(failure), hint=failure.hint)
