"""Shape of a JSON text, counted without parsing it: depth, lists and objects, values.

A body of a megabyte can hold a thousand events, or a third of a million empty objects, which take a hundred times as
long to parse as to count. The second kind is refused here, before anything is built of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from service.errors import InvalidFields
from service.field_errors import FieldError

_STRUCTURE = b'"[]{},'
_NO_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE))
_DEPTH_STEP = np.zeros(256, dtype=np.int8)
_DEPTH_STEP[list(b"[{")] = 1
_DEPTH_STEP[list(b"]}")] = -1


class Shape(NamedTuple):
    """Numbers about a JSON text. Of a text that is no JSON they mean nothing; its parser refuses it."""

    depth: int  # arrays and objects inside each other
    containers: int  # arrays and objects
    values: int  # in all of them together, at most
    entries: int  # of the outermost array, at most; 0 if the text is not an array


class Bounds(NamedTuple):
    """Bounds of a body, chosen so that every valid one keeps them.

    Attributes:
        containers: Largest number of arrays and objects.
        values: Largest number of values in all of them together.
        entries: Largest number of entries of the outermost array; 0 if it is none.
        settings: Names of the settings that the bounds follow from.
    """

    containers: int
    values: int
    entries: int = 0
    settings: str = ""

    def check(self, shape: Shape) -> None:
        """Refuse a body of this shape if it is too long.

        Raises:
            InvalidFields: It has too many entries, lists and objects, or values; names the limit.
        """
        if self.entries and shape.entries > self.entries:
            raise self._refusal(f"must have 1 to {self.entries} entries", self.entries)
        if shape.containers > self.containers:
            raise self._refusal(f"must hold at most {self.containers} lists and objects", self.containers)
        if shape.values > self.values:
            raise self._refusal(f"must hold at most {self.values} values", self.values)

    def _refusal(self, message: str, limit: int) -> InvalidFields:
        named = f" ({self.settings})" if self.settings else ""
        return InvalidFields([FieldError("", message + named, limit=limit)])


def measure(text: bytes) -> Shape:
    """Count brackets and commas outside of strings. A megabyte takes milliseconds."""
    without_escapes = text.replace(rb"\\", b"").replace(rb"\"", b"")  # no quote is left inside a string
    pieces = without_escapes.translate(None, _NO_STRUCTURE).split(b'"')
    outside = b"".join(pieces[::2])  # every second piece lies inside a string

    symbols = np.frombuffer(outside, dtype=np.uint8)
    depths = np.cumsum(_DEPTH_STEP[symbols], dtype=np.int32)
    commas = symbols == ord(",")
    containers = outside.count(b"[") + outside.count(b"{")
    return Shape(
        depth=int(depths.max(initial=0)),
        containers=containers,
        values=int(commas.sum()) + containers,
        entries=int((commas & (depths == 1)).sum()) + 1 if outside[:1] == b"[" else 0,
    )
