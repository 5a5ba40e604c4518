"""The command: what it says when it cannot start, and what its help names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from console.cli import main

ROOT = Path(__file__).parents[2]


def test_the_help_names_the_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["etegrec-console", "--help"])
    assert main() == 0
    shown = capsys.readouterr().out
    for word in ("--service", "--allow-changes", "ETEGREC_CONSOLE_KEY", "ETEGREC_CONSOLE_WRITE_KEY"):
        assert word in shown


def test_the_command_says_what_is_wrong_and_how_to_mend_it() -> None:
    command = [sys.executable, "-m", "console", "--host", "0.0.0.0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ETEGREC_CONSOLE_HOST: others can reach 0.0.0.0")
    assert "fix: set ETEGREC_CONSOLE_PASSWORD" in done.stderr
