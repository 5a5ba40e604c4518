"""A server on a real socket with an app that counts, for tests of connections."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from service.http import connections, protocol
from tests.support.counting_app import CountingApp
from tests.support.raw_http import RawServer, raw_server


@pytest.fixture
def counting() -> CountingApp:
    """The app of :func:`server`."""
    return CountingApp()


@pytest.fixture
async def server(counting: CountingApp, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RawServer]:
    """An app behind our protocol that lingers and sweeps as quickly as a test wants."""
    monkeypatch.setattr(connections, "SWEEP_S", 0.02)
    monkeypatch.setattr(protocol, "LINGER_S", 0.2)
    async with raw_server(counting) as server:
        yield server
