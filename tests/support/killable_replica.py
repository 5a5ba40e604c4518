"""Replica in a process of its own that tests can kill.

python -m tests.support.killable_replica FOLDER URL PREFIX PORT
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import uvicorn

from service.app import create_app
from service.store.redis_store import RedisStore
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import fast_settings

ROOT = Path(__file__).parents[2]


class Killable:
    """Process that ends as a crash would: nothing is finished, no lock is released."""

    def __init__(self, folder: Path, url: str, prefix: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [
            sys.executable,
            "-m",
            "tests.support.killable_replica",
            str(folder),
            url,
            prefix,
            str(self.port),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. It listens at once, and answers as soon as it has loaded its model."""
        self._process = subprocess.Popen(self._command, cwd=ROOT)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    async def is_ready(self, client: httpx.AsyncClient) -> bool:
        """Tell whether it answers requests."""
        assert self._process is not None
        assert self._process.poll() is None
        try:
            return (await client.get(f"{self.url}/health/ready")).status_code == 200
        except httpx.TransportError:
            return False


def main(folder: str, url: str, prefix: str, port: str) -> None:
    """Serve until killed."""
    store = RedisStore(url, prefix=prefix, timeout_ms=10_000, write_timeout_s=10, lock_ttl_s=1)
    settings = fast_settings(Path(folder), catalogue_poll_s=0.01, compact_changes=20)
    app = create_app(settings, store=store, coders=hash_coder)
    uvicorn.run(app, port=int(port), log_level="critical")


if __name__ == "__main__":
    main(*sys.argv[1:])
