"""Write the screenshots of the README, docs/pictures/*.png: ``python docs/make_screenshots.py --store demo/models``.

It starts the service on a model store and the console before it, and takes pictures with Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"

SHOTS = {
    "console-ask": "/ask?user={user}",
    "console-code-tree": "/codes",
}
"""Addresses of the pages, by the name of the picture."""

READY_S = 300
WAIT_MS = 120_000


def main() -> int:
    """Take the pictures; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the screenshots of the README.")
    parser.add_argument("--store", type=Path, default=ROOT / "demo" / "models", help="model store with a live version")
    parser.add_argument("--user", default="1", help="user whose history is asked for")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.stderr.write("error: there is no Chromium\nfix: apt-get install chromium\n")
        return 1
    if not options.store.is_dir():
        sys.stderr.write(f"error: there is no model store {options.store}\nfix: make demo ONESHOT=1\n")
        return 1

    PICTURES.mkdir(exist_ok=True)
    with _running(options.store) as address:
        take(address, chromium, options.user)
    return 0


def take(address: str, chromium: str, user: str) -> None:
    """Write every picture of a console at an address."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(WAIT_MS)
        for name, path in SHOTS.items():
            page.goto(address + path.format(user=user))
            page.wait_for_selector("table.plain", state="attached")
            page.wait_for_function("!document.querySelector('.waiting, [aria-busy=true]')")
            page.wait_for_timeout(2000)  # the library fades its parts in
            page.screenshot(path=PICTURES / f"{name}.png")
        browser.close()


@contextmanager
def _running(store: Path) -> Iterator[str]:
    """Start the service and the console; yield the console's address."""
    service, console = _free_port(), _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ETEGREC_")}
    environment |= {"ETEGREC_STORE": str(store), "ETEGREC_LOG_LEVEL": "warning", "ETEGREC_DEADLINE_MS": "20000"}
    commands = (
        ["-m", "service", "--port", str(service)],
        ["-m", "console", "--service", f"http://127.0.0.1:{service}", "--port", str(console), "--allow-changes"],
    )
    started = [subprocess.Popen([sys.executable, *each], cwd=ROOT, env=environment) for each in commands]
    try:
        _wait_for(f"http://127.0.0.1:{service}/health/ready")
        _wait_for(f"http://127.0.0.1:{console}/static/console.css")
        yield f"http://127.0.0.1:{console}"
    finally:
        for each in started:
            each.terminate()
        for each in started:
            each.wait()


def _wait_for(url: str) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        try:
            if httpx.get(url, timeout=10).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not there yet
        time.sleep(0.2)
    raise TimeoutError(f"{url} was not ready within {READY_S} s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
