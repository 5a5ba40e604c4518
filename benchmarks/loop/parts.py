"""Parts of a long benchmark: each is kept when it is done, and none begins after the time is up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_store.console import say
from model_store.durable_files import write_durably


class Parts:
    """Parts that are run in turn.

    Args:
        folder: Folder that keeps what they gave; the same folder and options go on where a run stopped.
        options: Everything that the figures depend on; other options begin anew.
        end: Time of ``time.monotonic()`` after which no part begins.

    Attributes:
        left_out: Names of the parts that did not begin.
    """

    def __init__(self, folder: Path, options: dict[str, Any], end: float) -> None:
        self._folder = folder
        self._options = options
        self._end = end
        self.left_out: list[str] = []

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what a part gave, now or before; nothing if it did not begin."""
        path = self._folder / f"{name}.json"
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["options"] == self._options:
                say(f"{name}: kept from an earlier run")
                return dict(kept["found"])
        if time.monotonic() >= self._end:
            self.left_out.append(name)
            return {}

        started = time.monotonic()
        found = work()
        self._folder.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps({"options": self._options, "found": found}, indent=1).encode())
        say(f"{name}: {time.monotonic() - started:.0f} s, {json.dumps(found)}")
        return found
