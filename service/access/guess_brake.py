"""Brake on guessing keys: an address that sends too many wrong ones is told to wait."""

from __future__ import annotations

import time
from collections import OrderedDict

from service.access.client_networks import network_of
from service.access.limits import Clock, TokenBucket

MAX_ADDRESSES = 10_000
"""Largest number of addresses that are remembered; the one that was quiet for longest is forgotten first."""


class GuessBrake:
    """Counts wrong keys by the address they come from.

    It protects the log, the alerts on refusals and a little CPU, and it slows down whoever guesses from few addresses.
    It does not protect weak secrets: whoever commands many addresses guesses as often as the network allows. A secret
    of 16 random bytes needs no brake.

    Valid keys never get here, so an address that is shared, such as a proxy's, is not locked out by one wrong client:
    only wrong keys wait. The address is that of the connection. Headers such as ``X-Forwarded-For`` are not read, since
    anyone can write them.

    Args:
        per_min: Wrong keys a minute that an address may send; as many may come at once. 0: any number.
        clock: Clock.
    """

    def __init__(self, per_min: int, clock: Clock = time.monotonic) -> None:
        self._per_min = per_min
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def count(self, address: str) -> float:
        """Count a wrong key; return the seconds that its address has to wait, 0 as long as there were few."""
        if not self._per_min:
            return 0.0

        network = network_of(address)
        bucket = self._buckets.get(network)
        if bucket is None:
            bucket = self._buckets[network] = TokenBucket(self._per_min / 60, self._per_min, self._clock)
            if len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(network)
        return bucket.take()
