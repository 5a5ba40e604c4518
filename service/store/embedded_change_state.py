"""Catalogue changes of the embedded store in memory, built from the lines of its log."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from model_store.events.event_log import ChangeLine, ItemLine, LogLine
from service.store.change_stream import ItemChange, Position

_NONCE = 0  # one process writes the log and never loses its fsynced end, so there are no two streams to tell apart


class ChangeState:
    """Catalogue changes: the newest ones in order, and the latest change of every item."""

    def __init__(self) -> None:
        self.revision = 0
        self.tail: deque[ItemChange] = deque()  # without gaps; the last one has ``revision``
        self.latest: dict[str, tuple[int, ItemChange]] = {}  # first revision and latest change, by item id

    def apply(self, line: ChangeLine | ItemLine) -> None:
        """Apply one line; a change that was applied before has no effect."""
        change = ItemChange(Position(line.revision, _NONCE), line.item_id, line.change, line.payload.encode())
        if isinstance(line, ItemLine):
            self.latest[line.item_id] = (line.first, change)
            return
        if line.revision <= self.revision:
            return

        if line.revision > self.revision + 1:
            # a damaged line in between, or a restart: readers must notice that the stream is broken here
            self.tail.clear()
        self.revision = line.revision
        self.tail.append(change)
        if line.change != "restart":
            first, latest = self.latest.get(line.item_id, (line.revision, change))
            if latest.at.revision <= line.revision:
                # a deletion keeps the payload of the put before it
                self.latest[line.item_id] = (first, replace(change, payload=change.payload or latest.payload))

    def trim(self, before: int) -> None:
        """Drop changes below a revision; the newest change stays."""
        while len(self.tail) > 1 and self.tail[0].at.revision < before:
            self.tail.popleft()

    def after(self, revision: int, limit: int) -> list[ItemChange] | None:
        """Return the changes after a revision; ``None`` if they are not held any more, or never were."""
        kept_from = self.tail[0].at.revision if self.tail else self.revision + 1
        if not kept_from - 1 <= revision <= self.revision:
            return None

        start = revision + 1 - kept_from
        return list(itertools.islice(self.tail, start, start + limit))

    def lines(self) -> Iterator[LogLine]:
        """Yield lines that rebuild this state; items first, so that the tail finds their first revisions."""
        for first, change in self.latest.values():
            yield _item_line(first, change)
        for change in self.tail:
            yield change_line(change)


def change_line(change: ItemChange) -> ChangeLine:
    """Return the line that logs a change."""
    return ChangeLine(
        revision=change.at.revision, item_id=change.item_id, change=change.kind, payload=change.payload.decode()
    )


def _item_line(first: int, change: ItemChange) -> ItemLine:
    return ItemLine(
        first=first,
        revision=change.at.revision,
        item_id=change.item_id,
        change=change.kind,
        payload=change.payload.decode(),
    )
