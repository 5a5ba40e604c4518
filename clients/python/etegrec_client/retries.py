"""Rule for repeating requests, the same for both clients.

Every call may be repeated: reading changes nothing, events count once by their ids, and of an item or a user what was
said last holds, however often it is said.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import httpx

from etegrec_client.errors import retry_after_s

REPEATED_STATUSES = frozenset({429, 503})
"""Statuses that say: not now."""


@dataclass(frozen=True)
class Retries:
    """Rule for repeating a request.

    Attributes:
        attempts: Attempts at most, the first one included; 1 never repeats.
        max_wait_s: Longest wait before an attempt. If the service asks for more, its refusal is raised at once.
        first_wait_s: Wait before the second attempt if the service names none; it doubles for each further one.
    """

    attempts: int = 3
    max_wait_s: float = 10.0
    first_wait_s: float = 0.1

    def wait_after(self, attempt: int, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Return the seconds to wait before the next attempt; ``None`` if there is none.

        Args:
            attempt: Number of the attempt that ended, from 1.
            outcome: Its answer, or the reason why there is none.
        """
        if attempt >= self.attempts:
            return None

        # Clients that were refused together do not come back together.
        own_wait: float = self.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        if isinstance(outcome, httpx.ReadTimeout):
            return None  # asking a slow service again makes it slower
        if isinstance(outcome, httpx.TransportError):
            return min(own_wait, self.max_wait_s)
        if outcome.status_code not in REPEATED_STATUSES:
            return None

        asked = retry_after_s(outcome)
        wait = own_wait if asked is None else asked
        return wait if wait <= self.max_wait_s else None
