"""Gate in front of every endpoint that needs a key: it asks who sends a request, and whether they may."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

import structlog

from model_store.errors import ConfigError
from service.access.guess_brake import GuessBrake
from service.access.keys import Key, KeyRing, Scope, keys_of_settings
from service.access.keys_file import parse_keys, read_file
from service.access.limits import Clock, KeyUsage, Limits
from service.async_tasks import repeat_until_cancelled
from service.errors import KeyForbidden, KeyMissing, RateLimited
from service.settings import Settings
from service.telemetry.log_sampling import SampledLog
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()


class Gate:
    """Gate of one service. Used from the event loop.

    Without any source of keys everything is open. As soon as one exists, each request needs a key; an empty keys file
    lets nobody in.

    Args:
        settings: Settings of the service.
        telemetry: Shows the use of keys.
        clock: Clock of limits.
        wall_clock: Returns Unix seconds, for keys that expire.

    Attributes:
        is_open: True where nobody needs a key.
        problem: Trouble with the keys file, for ``/health/ready``; empty if there is none.

    Raises:
        ConfigError: Keys in the settings or in the file are wrong.
    """

    def __init__(
        self, settings: Settings, telemetry: Telemetry, clock: Clock = time.monotonic, wall_clock: Clock = time.time
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._wall_clock = wall_clock
        self._brake = GuessBrake(settings.wrong_keys_per_min, clock)
        self._log = SampledLog()

        self._default_limits = Limits.of(settings)
        self._fixed_keys = keys_of_settings(settings, self._default_limits)
        self._file = Path(settings.keys_file) if settings.keys_file else None
        self._seen: bytes | str = b""  # content of the file when it was last looked at, or the reason why there is none
        self.problem = ""

        self._usages: dict[str, KeyUsage] = {}
        self._ring = KeyRing(())
        content = read_file(self._file) if self._file else None
        self._use(content)
        self._telemetry.keys_file_ok.set(1)
        self.is_open = not self._ring.keys and self._file is None

    def enter(self, given: str | None, address: str, scope: Scope) -> KeyUsage:
        """Let a request in. Call :meth:`~service.access.limits.KeyUsage.end` of the result when it is answered.

        Args:
            given: Value of its header ``X-API-Key``.
            address: Address of the connection it came on.
            scope: Permission that it needs.

        Raises:
            KeyMissing: There is no key, an unknown one, or one that has expired.
            KeyForbidden: The key lacks the scope.
            RateLimited: The key is over its limits, or too many wrong keys came from this address.
        """
        now = self._wall_clock()
        key = self._ring.find(given) if given else None
        if key is None or now >= key.not_after:
            self._refuse(given, address, is_expired=key is not None)

        usage = self._usages[key.name]
        usage.note(now)
        if scope not in key.scopes:
            raise KeyForbidden(f"this key lacks the scope {scope}, which this endpoint needs")
        usage.begin()
        return usage

    def check_scope(self, given: str | None, scope: Scope, what: str) -> None:
        """Refuse a part of a request that needs more than its endpoint does.

        Args:
            given: Value of the request's header ``X-API-Key``.
            scope: Permission that the part needs.
            what: The part, for the message.

        Raises:
            KeyForbidden: The key lacks the scope.
        """
        if self.is_open:
            return
        key = self._ring.find(given) if given else None
        if key is None or scope not in key.scopes:
            raise KeyForbidden(f"this key lacks the scope {scope}, which {what} needs")

    async def watch(self) -> None:
        """Read the keys file again whenever it changes, until cancelled."""
        if self._file is None:
            return
        await repeat_until_cancelled(
            partial(self._read_again, self._file),
            self._settings.keys_reload_s,
            on_crash=partial(log.exception, "keys_watch_crashed"),
        )

    async def _read_again(self, file: Path) -> None:
        try:
            self.use_file(await asyncio.to_thread(read_file, file))
        except ConfigError as cause:
            self._keep_keys(str(cause), cause)

    def use_file(self, content: bytes) -> None:
        """Take over the content of the keys file; keep the keys that are known if it is wrong."""
        if content == self._seen:
            return
        try:
            self._use(content)
        except ConfigError as cause:
            self._keep_keys(content, cause)
            return

        self.problem = ""
        self._telemetry.keys_file_ok.set(1)
        log.info("keys_file_read", keys=len(self._ring.keys))

    def _keep_keys(self, seen: bytes | str, cause: ConfigError) -> None:
        """Say once what is wrong with the file."""
        if seen == self._seen:
            return
        self._seen = seen
        self.problem = "the keys file cannot be used; the keys read before stay valid"
        self._telemetry.keys_file_ok.set(0)
        log.error("keys_file_refused", cause=str(cause), hint=cause.hint)

    def _use(self, content: bytes | None) -> None:
        """Replace the keys; of a key that stays, its use and its requests under way are kept.

        Raises:
            ConfigError: The content is wrong; nothing is replaced.
        """
        from_file = [] if content is None else parse_keys(content, self._default_limits)
        ring = KeyRing([*self._fixed_keys, *from_file])

        names = {key.name for key in ring.keys}
        for gone in self._usages.keys() - names:
            del self._usages[gone]
            self._telemetry.forget_key(gone)
        for key in ring.keys:
            self._keep_usage(key)
        self._ring = ring
        self._seen = content or b""

    def _keep_usage(self, key: Key) -> None:
        known = self._usages.get(key.name)
        if known is None:
            self._usages[key.name] = self._new_usage(key)
        elif known.limits != key.limits:
            known.set_limits(key.limits)

    def _new_usage(self, key: Key) -> KeyUsage:
        shown = self._telemetry
        usage = KeyUsage(
            key.limits,
            on_use=shown.key_requests.labels(key.name).inc,
            on_refusal=lambda limit: shown.key_refusals.labels(key.name, limit).inc(),
            clock=self._clock,
        )
        shown.key_last_use.labels(key.name).set_function(lambda: usage.last_used)
        return usage

    def _refuse(self, given: str | None, address: str, *, is_expired: bool) -> NoReturn:
        """Refuse a request without a valid key; only a wrong key is a guess, none at all is a mistake."""
        if not given:
            raise KeyMissing

        self._telemetry.wrong_keys.inc()
        self._log.warning("key_refused", address=address, expired=is_expired)
        wait_s = self._brake.count(address)
        if wait_s:
            raise RateLimited("too many wrong API keys came from this address (wrong_keys_per_min)", wait_s)
        raise KeyMissing("this API key has expired" if is_expired else "")
