"""The real service under clients without a key that send for ever: its memory stays, and others are answered."""

from __future__ import annotations

import resource
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.support.service_harness import live_store
from tests.support.service_process import process, wait_for

WITH_1024_FILES = """
import resource
from service.cli import main

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
main()
"""
ATTACK_S = 3.0
GROWTH_BYTES = 24 * 1024 * 1024

FLOODS = {
    "requests sent ahead": (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "trailers": (b"GET /health/live HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a:b\r\n"),
    "one trailer": (b"POST /recommend HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na:", b"bbbb"),
    "empty lines": (b"", b"\r\n"),
}


class Flood:
    """A client on one connection that sends the same for ever, and reads what is answered."""

    def __init__(self, port: int, first: bytes, again: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(first)
        self._again = again * (65_536 // len(again))
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._read)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with suppress(OSError):
            while True:
                self._socket.sendall(self._again)

    def _read(self) -> None:
        with suppress(OSError):
            while self._socket.recv(65_536):
                pass

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(30)


def resident_bytes(server: subprocess.Popen[str]) -> int:
    pages = Path(f"/proc/{server.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def test_clients_that_send_for_ever_cost_no_memory(tmp_path: Path) -> None:
    live_store(tmp_path)
    growth = {}
    with process(tmp_path, "-m", "service") as (server, url):
        wait_for(f"{url}/health/ready", 200)
        for kind, sent in FLOODS.items():
            before = resident_bytes(server)
            flood = Flood(port_of(url), *sent)
            growth[kind] = max(resident_bytes(server) for _ in ask_for(url, ATTACK_S)) - before
            flood.close()
    assert max(growth.values()) < GROWTH_BYTES, growth


def ask_for(url: str, seconds: float) -> Iterator[None]:
    """Ask as a polite client for so long; each request must be answered."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert httpx.get(f"{url}/health/live", timeout=10).status_code == 200
        yield
        time.sleep(0.05)


def port_of(url: str) -> int:
    port = httpx.URL(url).port
    assert port is not None
    return port


@contextmanager
def many_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_probes_are_answered_while_more_connections_drip_than_files_may_be_open(tmp_path: Path) -> None:
    live_store(tmp_path)
    head = b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    kinds = [(head, b"X: a\r\n"), (head + b"Content-Length: 5000\r\n\r\n", b"x")]
    with many_files(4096), process(tmp_path, "-c", WITH_1024_FILES, BODY_TIMEOUT_S="30") as (server, url):
        wait_for(f"{url}/health/ready", 200)
        dripping = []
        for first, dripped in kinds * 550:
            connection = socket.create_connection(("127.0.0.1", port_of(url)), timeout=10)
            connection.sendall(first)
            dripping.append((connection, dripped))

        for _ in range(8):
            for connection, dripped in dripping:
                with suppress(OSError):  # it made room for another
                    connection.sendall(dripped)
            for path in ("/health/live", "/health/ready", "/metrics"):
                assert httpx.get(url + path, timeout=10).status_code == 200
            time.sleep(0.2)
        asked = httpx.post(f"{url}/recommend", json={"history": ["item-1"]}, timeout=10)
        assert asked.status_code == 200  # one that waited longest made room

        for connection, _ in dripping:
            connection.close()
        server.kill()
        _, logged = server.communicate(timeout=30)
    assert "fewer_connections" in logged
    assert "Too many open files" not in logged
