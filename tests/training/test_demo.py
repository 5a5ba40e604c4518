"""The demo refuses what it cannot do before it trains for minutes."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from training.demo import HOST, PORT


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
