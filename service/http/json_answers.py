"""Encoding of JSON answers: fast for what is usual, and still an answer for whatever the catalogue may hold."""

from __future__ import annotations

import json
from typing import Any

import orjson


def encode_answer(content: object) -> bytes:
    """Return a document as JSON.

    The fast encoder refuses integers beyond 64 bits and lone surrogates. No client can write them, but bundles and
    stores that are older than this rule may hold some: the slow encoder writes those as they are, and NaN as null.
    """
    try:
        return orjson.dumps(content)
    except orjson.JSONEncodeError:
        return json.dumps(_without_nan(content), allow_nan=False).encode()


def _without_nan(content: object) -> Any:
    """Return the same document with null in the place of NaN and infinities, as the fast encoder writes them."""
    return json.loads(json.dumps(content), parse_constant=lambda _: None)
