"""Limits of a key: requests a second, requests at the same time, bytes of bulk uploads a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Self

from service.errors import RateLimited
from service.settings import Settings

Clock = Callable[[], float]
"""Function that returns seconds and never goes back, as :func:`time.monotonic`."""


@dataclass(frozen=True)
class Limits:
    """Limits of one key; 0 means no limit.

    Attributes:
        requests_per_s: Requests a second, in the long run.
        burst: Requests that may come at once after a pause; 0 stands for two seconds' worth.
        concurrent: Requests that may be answered at the same time.
        bulk_bytes_per_min: Bytes of bulk uploads a minute, in the long run.
    """

    requests_per_s: float = 0.0
    burst: int = 0
    concurrent: int = 0
    bulk_bytes_per_min: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits of keys that have none of their own."""
        return cls(
            settings.key_requests_per_s, settings.key_burst, settings.key_concurrent, settings.key_bulk_bytes_per_min
        )


class TokenBucket:
    """Allowance that fills up steadily and is spent bit by bit.

    Args:
        per_s: Tokens that come back each second.
        capacity: Tokens that it holds at most, and at first.
        clock: Clock.
    """

    __slots__ = ("_at", "_capacity", "_clock", "_level", "_per_s")

    def __init__(self, per_s: float, capacity: float, clock: Clock = time.monotonic) -> None:
        self._per_s = per_s
        self._capacity = capacity
        self._clock = clock
        self._level = capacity
        self._at = clock()

    def take(self) -> float:
        """Take one token and return 0; without a whole one, take nothing and return the seconds until there is."""
        self._fill()
        if self._level < 1:
            return (1 - self._level) / self._per_s
        self._level -= 1
        return 0.0

    def spend(self, tokens: float) -> None:
        """Take tokens, even if there are too few: the debt is paid off before :meth:`debt_s` is 0 again."""
        self._fill()
        self._level -= tokens

    def debt_s(self) -> float:
        """Return the seconds until more was filled in than spent; 0 if that is so now."""
        self._fill()
        return max(0.0, -self._level / self._per_s)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self._per_s)
        self._at = now


class KeyUsage:
    """Use of one key, held against its limits. Used from the event loop.

    Args:
        limits: Limits of the key.
        on_use: Called for every request that sends the key.
        on_refusal: Called with the name of a limit whenever that one refuses a request.
        clock: Clock of the limits.

    Attributes:
        last_used: Unix time of the last request; 0 if there was none.
    """

    def __init__(
        self,
        limits: Limits,
        on_use: Callable[[], None] = lambda: None,
        on_refusal: Callable[[str], None] = lambda limit: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.last_used = 0.0
        self._on_use = on_use
        self._on_refusal = on_refusal
        self._clock = clock
        self._running = 0
        self.set_limits(limits)

    def set_limits(self, limits: Limits) -> None:
        """Replace the limits; what was spent under the old ones is forgotten, requests under way still count."""
        self._limits = limits
        self._requests: TokenBucket | None = None
        self._bulk_bytes: TokenBucket | None = None
        if limits.requests_per_s:
            burst = limits.burst or max(1, ceil(2 * limits.requests_per_s))
            self._requests = TokenBucket(limits.requests_per_s, burst, self._clock)
        if limits.bulk_bytes_per_min:
            self._bulk_bytes = TokenBucket(limits.bulk_bytes_per_min / 60, limits.bulk_bytes_per_min, self._clock)

    @property
    def limits(self) -> Limits:
        """Limits that hold now."""
        return self._limits

    def note(self, now: float) -> None:
        """Note that a request sent the key, at a Unix time."""
        self.last_used = now
        self._on_use()

    def begin(self) -> None:
        """Count a request as running. Call :meth:`end` when it is answered.

        Raises:
            RateLimited: The key sends too many requests; this one was not counted.
        """
        limits = self._limits
        if limits.concurrent and self._running >= limits.concurrent:
            self._refuse("concurrent", f"answer {limits.concurrent} requests of this key at the same time", 1)
        if self._requests is not None and (wait_s := self._requests.take()):
            self._refuse("requests_per_s", f"take {limits.requests_per_s:g} requests a second of this key", wait_s)
        self._running += 1

    def end(self) -> None:
        """Count a request as answered."""
        self._running -= 1

    def check_bulk_bytes(self) -> None:
        """Refuse an upload while earlier ones are not paid off.

        Raises:
            RateLimited: The key has sent more bytes than its minutes so far allowed.
        """
        if self._bulk_bytes is not None and (wait_s := self._bulk_bytes.debt_s()):
            allowed = self._limits.bulk_bytes_per_min
            self._refuse("bulk_bytes_per_min", f"take {allowed} bytes of bulk uploads a minute of this key", wait_s)

    def count_bulk_bytes(self, size: int) -> None:
        """Count bytes of an upload that was let in. It is never cut off: those after it wait instead."""
        if self._bulk_bytes is not None:
            self._bulk_bytes.spend(size)

    def _refuse(self, limit: str, promise: str, wait_s: float) -> None:
        self._on_refusal(limit)
        raise RateLimited(f"the service may {promise} at most ({limit}); try again later", wait_s)
