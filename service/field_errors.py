"""Errors of single fields of a request, and which names of fields they may repeat."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ORDINARY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def is_ordinary_name(name: str) -> bool:
    """Tell whether a name that a client chose looks like one of a field: only then may an error repeat it."""
    return _ORDINARY_NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class FieldError:
    """A wrong field and the reason.

    Attributes:
        field: Path like ``filter.allow.3``, empty for the whole body.
        message: The reason.
        expected: What the field takes, in words; empty if the message says it all.
        limit: The bound that was broken, if one was.
    """

    field: str
    message: str
    expected: str = ""
    limit: float | None = None
