"""Console as a process and a real browser that looks at it, without the internet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

from tests.support.service_process import ROOT, free_port, wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

NO_CHROMIUM = "there is no Chromium on this machine: apt-get install chromium"

WIDTHS = (1280, 390)
START_S = 180  # each of the processes imports a lot
PATIENCE_MS = 120_000

LOADS_S: list[float] = []
"""Seconds that each page took, from its address until nothing on it waited any more."""


@contextmanager
def console(service: str, *options: str) -> Iterator[str]:
    """Start ``python -m console`` for a service; yield its address, and end it afterwards."""
    port = free_port()
    command = [sys.executable, "-m", "console", "--service", service, "--port", str(port), *options]
    # Where it sees pytest, the library takes the process for a test of its own and serves nothing.
    others = ("ETEGREC_CONSOLE_", "PYTEST_", "NICEGUI_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    started = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/static/console.css", 200, START_S)
        yield f"http://127.0.0.1:{port}"
    finally:
        started.kill()
        started.wait()


class Visit:
    """A page in a browser, with everything that it complained about and asked for."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        self._address = address
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.add(httpx.URL(request.url).host))

    def open(self, path: str) -> None:
        """Open a page and wait until nothing on it waits any more."""
        started = time.monotonic()
        self.page.goto(self._address + path)
        self.page.wait_for_selector("h1")
        self.wait()
        LOADS_S.append(time.monotonic() - started)

    def wait(self) -> None:
        """Wait until nothing on the page waits for the service."""
        self.page.wait_for_function("!document.querySelector('.waiting, [aria-busy=true]')")

    def wait_for_text(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.page.wait_for_function("text => document.body.innerText.includes(text)", arg=text)

    def text(self) -> str:
        """Return what the page shows."""
        return self.page.inner_text("body")

    def faults(self, *, without: str = "") -> list[str]:
        """Return what axe-core finds wrong with the page as it is, a line each; leave one of its rules out if given."""
        self.page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
        found: dict[str, Any] = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{rule['id']}: {rule['help']}: {node['html'][:200]}: {node['failureSummary']}"
            for rule in found["violations"]
            if rule["id"] != without
            for node in rule["nodes"]
        ]


@contextmanager
def browsing(address: str, width: int, theme: str = "light") -> Iterator[Visit]:
    """Open a browser of a width that finds nothing but this machine."""
    offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[offline, "--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": 800}, color_scheme="dark" if theme == "dark" else "light"
        )
        yield Visit(page, address)
        browser.close()
