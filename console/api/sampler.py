"""Sampler of the service's metrics: what happened in the last minutes, whichever page is opened when."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from etegrec_client import EtegrecError

from console.api.metrics import Rates, Reading, rates_between, read_metrics
from console.api.service_api import ServiceApi
from console.api.troubles import Trouble, trouble_of

KEPT = 180
"""Readings that are kept: a quarter of an hour at one each five seconds."""


@dataclass(frozen=True)
class Sample:
    """Rates between one reading and the one before it."""

    at: datetime
    rates: Rates | None  # None: the service did not answer


class Sampler:
    """Reads the metrics again and again.

    Args:
        api: The service.
        every_s: Seconds between two readings.
    """

    def __init__(self, api: ServiceApi, every_s: float) -> None:
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self.newest: Reading | None = None
        self.trouble: Trouble | None = None
        """Why the last reading failed; ``None`` if it did not."""
        self._api = api
        self._every_s = every_s

    async def run(self) -> None:
        """Read for ever."""
        while True:
            await self.read()
            await asyncio.sleep(self._every_s)

    async def read(self) -> None:
        """Read once. A failure is kept as such: it is what the overview has to show."""
        try:
            reading = read_metrics(await self._api.metrics())
        except EtegrecError as failure:
            self.trouble = trouble_of(failure)
            self.newest = None
            self.samples.append(Sample(datetime.now().astimezone(), None))
            return

        rates = rates_between(self.newest, reading)
        self.samples.append(Sample(datetime.now().astimezone(), rates))
        self.newest = reading
        self.trouble = None
