"""The real service in its own process: start it, read its metrics, measure it from outside, kill it, end it."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

READY_S = 300.0
END_S = 60.0

WITHOUT_NETWORK: Mapping[str, Any] = {"engine": "fake", "load_trial": "false", "result_cache_entries": 0}
"""Settings of a service whose engine computes nothing, and which answers each request anew."""


class ServiceDied(RuntimeError):
    """The service ended, or was not ready in time; the message ends with its log."""


class ServiceProcess:
    """One ``etegrec-serve`` on a port of its own, which can be killed and started again there.

    Args:
        store: Folder of a model store with a live version.
        folder: Its own folder: the log and, unless the settings name another place, the embedded store.
        descriptors: Largest number of file descriptors that it may open; None: as many as this process.
        variables: Environment variables that it gets besides those of this process.
        settings: Names and values of :class:`service.settings.Settings`; None leaves one unset.
    """

    def __init__(
        self,
        store: Path,
        folder: Path,
        *,
        descriptors: int | None = None,
        variables: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = int(settings.pop("port", 0) or free_port())
        self._descriptors = descriptors
        self._process: subprocess.Popen[bytes] | None = None

        given = {"store": store, "port": self.port, "events_folder": folder, "shutdown_delay_s": 0, **settings}
        named = {f"ETEGREC_{name.upper()}": str(value) for name, value in given.items() if value is not None}
        self._environment = {**os.environ, **(variables or {}), **named}

    @property
    def log(self) -> str:
        """Everything that it has logged."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Id of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True until the process ends."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start the process and, unless told otherwise, wait until it is ready.

        Raises:
            ServiceDied: It ended or was not ready in time.
        """
        limit = self._descriptors

        def restrict() -> None:
            assert limit is not None
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

        with (self.folder / "log").open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                env=self._environment,
                stderr=sink,
                preexec_fn=None if limit is None else restrict,
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it answers that it is ready.

        Raises:
            ServiceDied: It ended or was not ready in time.
        """
        end = time.monotonic() + READY_S
        while time.monotonic() < end and self.is_running:
            with suppress(OSError, http.client.HTTPException):  # the port is not open yet
                if self.get("/health/ready")[0] == 200:
                    return
            time.sleep(0.05)
        raise ServiceDied("the service did not become ready; its log ends with:\n" + self.log[-4000:])

    def kill(self) -> None:
        """Kill the process with SIGKILL, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def ask_to_end(self) -> None:
        """Send SIGTERM and return at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code; kill the process if it does not end in time."""
        assert self._process is not None
        self.ask_to_end()
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Send one GET request on a connection of its own; return status and body."""
        status, body = self.ask("GET", path, headers=headers)
        return status, body.decode()

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send one request, with a body as JSON, on a connection of its own; return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = None if body is None else json.dumps(body).encode()
        media: dict[str, str] = {} if data is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, data, {**media, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
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

    def memory_mb(self) -> float:
        """Return the resident memory of the process in MB (Linux)."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6

    def open_files(self) -> int:
        """Return the number of file descriptors that the process has open (Linux)."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@contextmanager
def serving(store: Path, **settings: Any) -> Iterator[ServiceProcess]:
    """Start the service on a model store, wait until it is ready, and end it afterwards.

    Args:
        store: Folder of a model store with a live version.
        settings: Names and values of :class:`service.settings.Settings`; None leaves one unset.

    Raises:
        ServiceDied: It ended or was not ready in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        service = ServiceProcess(store, Path(folder), **settings)
        try:
            service.start()
            yield service
        finally:
            service.terminate()


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
