"""The HTTP server with an orderly shutdown.

Uvicorn alone closes its port at the first signal, so no probe ever sees the 503, and ends by raising the signal again.
Here the first SIGTERM or SIGINT turns readiness to 503 while everything is still answered for ``shutdown_delay_s``;
then the port closes, accepted requests finish, and the process ends with exit code 0. A second signal skips the delay.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import FrameType

import uvicorn


class Server(uvicorn.Server):
    """Uvicorn's server with a delay between the first signal and the closing of its port.

    Args:
        config: Configuration of uvicorn.
        begin_drain: Called in the main thread when the first signal arrives.
        delay_s: Seconds between that signal and the closing of the port.
    """

    def __init__(self, config: uvicorn.Config, begin_drain: Callable[[], None], delay_s: float) -> None:
        super().__init__(config)
        self._begin_drain = begin_drain
        self._delay_s = delay_s
        self._close_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal. The base class would remember it and raise it again at the end."""
        if self._close_at is None:
            self._begin_drain()
            self._close_at = time.monotonic() + self._delay_s
        elif self.should_exit:
            self.force_exit = True
        else:
            self._close_at = 0.0

    async def on_tick(self, counter: int) -> bool:
        """Return true to end the server; called ten times a second."""
        if self._close_at is not None and time.monotonic() >= self._close_at:
            self.should_exit = True
        return await super().on_tick(counter)
