"""Access of one page to the service: typed client, keys, and the calls that were made, as curl commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import httpx
from etegrec_client import AsyncClient, Retries, ServiceUnreachable

from console.settings import Settings

PREVIEW_TIMEOUT_S = 90.0
"""Seconds that a preview may take: it is as many searches as hundreds of requests."""

TIMEOUT_S = 10.0
"""Seconds that a call may take; longer than the service's own deadline."""

SHOWN_CALLS = 12
"""Calls that a page lists, the newest ones."""

_RETRIES = Retries(attempts=2, max_wait_s=1.0)  # a person waits, and can ask again


class ServiceApi:
    """Access of one page to the service.

    Args:
        settings: Address and keys.
        transport: Connections to the service, shared by all pages.
    """

    def __init__(self, settings: Settings, transport: httpx.AsyncBaseTransport) -> None:
        self.calls: list[str] = []
        """Curl commands of the newest calls, newest first, each once. They name keys as ``$KEY``, never by value."""
        self.on_call: Callable[[], None] = lambda: None
        """Called after each entry in :attr:`calls`."""

        self._url = settings.service.rstrip("/")
        self._transport = _NotedTransport(transport, self._note)
        read_key = None if settings.key is None else settings.key.get_secret_value()
        write_key = read_key if settings.write_key is None else settings.write_key.get_secret_value()
        self.looking = self._client(read_key)
        """Client for everything that shows the catalogue and answers."""
        self.acting = self._client(write_key)
        """Client for changes and for personal data; the same rights as ``looking`` without a write key."""
        self.previewing = self._client(read_key, PREVIEW_TIMEOUT_S)
        """Client for previews, which take longer than anything else."""

    async def metrics(self) -> str:
        """Return the service's metrics in Prometheus' text format.

        Raises:
            ServiceUnreachable: There was no answer, or not the metrics.
        """
        try:
            async with httpx.AsyncClient(transport=self._transport, timeout=TIMEOUT_S) as client:
                response = await client.get(f"{self._url}/metrics")
        except httpx.TransportError as failure:
            raise ServiceUnreachable(f"{type(failure).__name__}: {failure}") from failure
        if response.status_code != httpx.codes.OK:
            raise ServiceUnreachable(f"GET /metrics answered {response.status_code}")
        return response.text

    def _client(self, key: str | None, timeout_s: float = TIMEOUT_S) -> AsyncClient:
        return AsyncClient(self._url, key=key, timeout_s=timeout_s, retries=_RETRIES, transport=self._transport)

    def _note(self, request: httpx.Request) -> None:
        call = curl_of(request)
        self.calls = [call, *(each for each in self.calls if each != call)][:SHOWN_CALLS]
        self.on_call()


class _NotedTransport(httpx.AsyncBaseTransport):
    """Transport that notes every request before it sends it. Closing it leaves the shared connections open."""

    def __init__(self, inner: httpx.AsyncBaseTransport, note: Callable[[httpx.Request], None]) -> None:
        self._inner = inner
        self._note = note

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        self._note(request)
        return await self._inner.handle_async_request(request)


def curl_of(request: httpx.Request) -> str:
    """Return a curl command that sends the same request; a key is written as ``$KEY``."""
    parts = ["curl -s"]
    if request.method != "GET":
        parts.append(f"-X {request.method}")
    parts.append(shlex.quote(str(request.url)))
    if "x-api-key" in request.headers:
        parts.append('-H "X-API-Key: $KEY"')
    if request.content:
        parts.append(f"-H {shlex.quote('content-type: ' + request.headers['content-type'])}")
        parts.append(f"-d {shlex.quote(request.content.decode())}")
    return " ".join(parts)
