"""The real service in its own process: start it, read its metrics, measure it from outside, end it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

READY_S = 300.0


@dataclass(frozen=True)
class ServiceProcess:
    """A running ``etegrec-serve``, with the embedded store unless told otherwise."""

    pid: int
    port: int

    def get(self, path: str) -> tuple[int, str]:
        """Send one GET request on a connection of its own; return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Return the sum of a metric over the labels that the name selects, such as ``name{stage="compute"}``."""
        wanted = re.compile(re.escape(name) + r"(?:\{.*\})? (.+)" if "{" not in name else re.escape(name) + " (.+)")
        lines = self.get("/metrics")[1].splitlines()
        return sum(float(found[1]) for line in lines if (found := wanted.fullmatch(line)))

    def cpu_s(self) -> float:
        """Return the CPU seconds of the process, user and system (Linux)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(store: Path, **settings: object) -> Iterator[ServiceProcess]:
    """Start the service on a model store, wait until it is ready, and end it afterwards.

    Args:
        store: Folder of a model store with a live version.
        settings: Names and values of :class:`service.settings.Settings`; None leaves one unset.

    Raises:
        RuntimeError: It ended or was not ready in time; the message holds its log.
    """
    with tempfile.TemporaryDirectory() as events, socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
        free.close()

        given = {"store": store, "port": port, "events_folder": events, "shutdown_delay_s": 0, **settings}
        environment = os.environ | {
            f"ETEGREC_{name.upper()}": str(value) for name, value in given.items() if value is not None
        }

        log = Path(events) / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stderr=sink)
        try:
            service = ServiceProcess(process.pid, port)
            _wait_until_ready(service, process, log)
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(service: ServiceProcess, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):  # the port is not open yet
            if service.get("/health/ready")[0] == 200:
                return
        time.sleep(0.1)
    raise RuntimeError("the service did not become ready; its log ends with:\n" + log.read_text()[-4000:])
