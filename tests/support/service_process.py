"""The real service as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def process(store: Path, *command: str, **given: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start Python with a command that serves a model store; yield the process and its URL, and kill it at the end."""
    port = free_port()
    settings = {
        "STORE": str(store),
        "PORT": str(port),
        "RELOAD_S": "0.05",
        "ENGINE": "fake",
        "LOAD_TRIAL": "false",
        **given,
    }
    environment = {**os.environ, **{f"ETEGREC_{name}": value for name, value in settings.items()}}
    started = subprocess.Popen([sys.executable, *command], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        yield started, f"http://127.0.0.1:{port}"
    finally:
        started.kill()
        started.communicate()


def wait_for(url: str, status: int, seconds: float = 30) -> httpx.Response:
    """Ask again and again until the answer has this status; fail after half a minute, or so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            response = httpx.get(url)
        except httpx.TransportError:
            response = None
        if response is not None and response.status_code == status:
            return response
        time.sleep(0.02)
    raise AssertionError(f"{url} did not answer {status}")


def wait_for_metric(url: str, line: str) -> None:
    """Wait until the metrics hold a line; fail after half a minute."""
    end = time.monotonic() + 30
    while line not in (text := httpx.get(f"{url}/metrics").text):
        assert time.monotonic() < end, text
        time.sleep(0.02)
