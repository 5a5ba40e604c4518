"""Splitting of a bulk upload into parts, each small enough to be kept and sent again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from etegrec_client.errors import InvalidRequest
from etegrec_client.types import BulkItem, BulkResponse

PART_ITEMS = 1000
"""Items that are sent together."""


def split(items: Iterable[BulkItem], part_items: int) -> Iterator[list[BulkItem]]:
    """Yield the items in parts of at most ``part_items``."""
    rest = iter(items)
    while part := list(islice(rest, part_items)):
        yield part


@dataclass
class UploadTotal:
    """Result of the parts sent so far."""

    answer: BulkResponse = field(
        default_factory=lambda: BulkResponse(items=0, new=0, say_nothing=0, revision=0, recommendable_after_ms=0.0)
    )

    def add(self, part: BulkResponse) -> None:
        """Add the answer to one part."""
        self.answer["items"] += part["items"]
        self.answer["new"] += part["new"]
        self.answer["say_nothing"] += part.get("say_nothing", 0)  # services of earlier releases do not count them
        self.answer["revision"] = part["revision"]
        self.answer["recommendable_after_ms"] += part["recommendable_after_ms"]

    def renumber(self, refused: InvalidRequest) -> None:
        """Count the lines of a refusal from the beginning of the upload, not of its part."""
        for problem in refused.fields:
            line, dot, rest = problem["field"].partition(".")
            if line.isdecimal():
                problem["field"] = f"{int(line) + self.answer['items']}{dot}{rest}"
