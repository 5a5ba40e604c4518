"""The demo refuses what it cannot do before it trains for minutes."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.service_process import wait_for
from training.demo import HOST, PORT, _start_console, _stop


def test_a_port_that_is_taken_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with socket.socket() as taken:
        with suppress(OSError):  # another program has it: as good
            taken.bind((HOST, PORT))
            taken.listen()
        command = [sys.executable, "-m", "training.demo", "--folder", str(tmp_path / "demo")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 1
    assert f"port {PORT} of {HOST} cannot be used" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_the_console_is_started_beside_the_service_and_ended_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)  # the console's library serves nothing under pytest
    monkeypatch.setenv("ETEGREC_CONSOLE_HOST", "no address of the demo's")
    started = _start_console(PORT)
    assert started is not None
    try:
        assert isinstance(started.args, list)
        wait_for(f"http://{HOST}:{started.args[-1]}/health", 200, 180)
    finally:
        _stop("console", started)
    assert started.returncode is not None
