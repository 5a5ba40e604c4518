"""Example of an operation for GET /docs, and what many examples speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """Example of one operation.

    Attributes:
        answer: The answer, JSON or text.
        body: Body of the request; text if it is not JSON, ``None`` if there is none.
        path: Parameters in the path, by name.
        query: Parameters of the query string, by name.
    """

    answer: Any
    body: Any = None
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str | int] = field(default_factory=dict)


VERSION = "20261123t233548z-1a39742d"
TOY_STORY = {"item_id": "1", "title": "Toy Story", "codes": [3, 22, 13]}
NEW_ITEM = {"title": "A New Comedy", "categories": ["Comedy"], "attributes": {"year": 1998, "price": 9.5}}
