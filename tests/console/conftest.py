"""The median page load of the tests in a real browser, told at the end. It is no check: machines differ."""

from __future__ import annotations

import statistics

import pytest

from tests.support.console_browser import LOADS_S


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long pages took in this process."""
    if LOADS_S:
        median_ms = 1000 * statistics.median(LOADS_S)
        terminalreporter.write_line(f"page loads: median {median_ms:.0f} ms of {len(LOADS_S)} pages")
