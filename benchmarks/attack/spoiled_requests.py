"""Requests that the service accepts, and seeded ways to spoil them: values, JSON text, paths, headers, raw bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from urllib.parse import quote

from benchmarks.attack.raw_client import encode

MARK = "zq9x7"
"""Text inside hostile values. No error may repeat it: errors name fields of ordinary names and repeat nothing else."""

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    0.1,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    "",
    " ",
    MARK,
    MARK * 2000,
    "\u0000" + MARK,
    "\u202e" + MARK,
    "\U0001f600" * 50,
    "a\u0301" * 130,
    "../../etc/passwd",
    "{{7*7}}" + MARK,
    "'; DROP TABLE items; --",
    "\r\nSet-Cookie: " + MARK,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"__proto__": {"admin": True}},
    [MARK] * 300,
)
"""Values that tend to break parsers, limits or storage."""

RAW_VALUES = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e-999",
    b"01",
    b"1.",
    b'"\\ud800"',
    b'"\xff\xfe"',
    b'"\\u0000"',
    b"[" * 40 + b"]" * 40,
    b'{"a":' * 40 + b"1" + b"}" * 40,
    b"9" * 5000,
    b'{"k":1,"k":2}',
    b"tru",
    b"",
)
"""JSON text that no encoder writes."""


@dataclass(frozen=True)
class Sample:
    """A request; ``body`` is JSON unless ``raw`` holds other bytes."""

    method: str
    path: str
    body: Any = None
    raw: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, key: str) -> bytes:
        """Return the request with an API key."""
        body = self.raw if self.raw is not None or self.body is None else json.dumps(self.body).encode()
        media = () if body is None or self._has("content-type") else (("Content-Type", self._media),)
        keys = () if self._has("x-api-key") else (("X-API-Key", key),)
        return encode(self.method, self.path, body, (*keys, *media, *self.headers))

    @property
    def _media(self) -> str:
        return "application/jsonl" if self.path == "/items/bulk" else "application/json"

    def _has(self, header: str) -> bool:
        return any(name.lower() == header for name, _ in self.headers)


def accepted_request(random: Random) -> Sample:
    """Return a request that the service accepts, for any of its endpoints."""
    item = f"item-{random.randrange(500)}"
    user = f"user-{random.randrange(50)}"
    history = [f"item-{random.randrange(600)}" for _ in range(random.randrange(1, 8))]
    rule = {
        "categories": ["category-1", "category-2"],
        "categories_all": ["category-1"],
        "attributes": [{"field": "year", "gte": 1991, "lte": 2010}],
        "allow": ["item-1", "item-2", "item-3"],
        "deny": ["item-4"],
    }
    asked: dict[str, Any] = {
        "user_id": user,
        "history": history,
        "k": random.randrange(1, 21),
        "filter": rule,
        "exclude_seen": True,
        "max_per_prefix": 3,
        "budget_ms": 500,
        "explain": False,
    }
    content = {"title": "A title", "categories": ["category-1"], "attributes": {"year": 1999, "price": 4.5}}
    event = {
        "event_id": f"event-{random.randrange(10**9)}",
        "user_id": user,
        "item_id": item,
        "type": "view",
        "timestamp": 1_790_000_000,
    }
    lines = b"\n".join(json.dumps({"item_id": f"item-{number}", **content}).encode() for number in range(3))
    kept = {name: value for name, value in asked.items() if random.random() < 0.6}
    accepted = (
        Sample("POST", "/recommend", kept or {"user_id": user}),
        Sample("POST", "/recommend", {"history": history, "explain": random.random() < 0.1}),
        Sample("POST", "/recommend/batch", [{"history": history}, {"user_id": user}]),
        Sample("POST", "/events", event),
        Sample("POST", "/events", [event, {**event, "event_id": "other"}]),
        Sample("PUT", f"/items/{item}", content),
        Sample("PUT", f"/items/new-{random.randrange(20)}", content),
        Sample("PATCH", f"/items/{item}", {"attributes": {"price": 5.5}, "hidden": random.random() < 0.1}),
        Sample("DELETE", f"/items/{item}"),
        Sample("GET", f"/items/{item}"),
        Sample("GET", f"/items/{item}/similar?k=5"),
        Sample("POST", "/items/bulk", raw=lines),
        Sample("GET", f"/users/{user}"),
        Sample("DELETE", f"/users/{user}"),
        Sample("GET", "/codes/1-2?limit=5&offset=1"),
        Sample("GET", "/popular?category=category-1&k=5"),
        Sample("GET", "/trending?k=5"),
        Sample("GET", "/model"),
        Sample("GET", "/health/ready"),
    )
    return random.choice(accepted)


def spoil(sample: Sample, random: Random) -> Sample:
    """Return the request with one to three things wrong with it, or at least odd."""
    ways = [_spoil_path, _spoil_headers, *([_spoil_value, _spoil_value, _spoil_text] if sample.body else [])]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        sample = random.choice(ways)(sample, random)
    return sample


def spoil_bytes(data: bytes, random: Random) -> bytes:
    """Return the bytes of a request with a few of them changed, removed, repeated or inserted."""
    found = bytearray(data)
    for _ in range(random.randrange(1, 6)):
        place = random.randrange(len(found) + 1)
        end = min(len(found), place + random.randrange(1, 40))
        way = random.randrange(5)
        if way == 0 and place < len(found):
            found[place] ^= 1 << random.randrange(8)
        elif way == 1:
            del found[place:end]
        elif way == 2:
            found[place:place] = found[place:end] * random.randrange(1, 4)
        elif way == 3:
            found[place:place] = random.choice((b"\r\n", b"\n", b"\0", b"\xff", b": ", b" ", b"%", b"\r\n\r\n", b"\t"))
        else:
            found[place:place] = random.randbytes(random.randrange(1, 20))
    return bytes(found)


def _spoil_value(sample: Sample, random: Random) -> Sample:
    """Replace, remove, repeat or add one value anywhere inside the body."""
    body = json.loads(json.dumps(sample.body))
    places = _places(body)
    if not places:
        return replace(sample, body=random.choice(HOSTILE))

    inside, key = random.choice(places)
    way = random.randrange(6)
    if way == 0:
        del inside[key]
    elif way == 1 and isinstance(inside, list):
        inside.extend([inside[key]] * random.choice((2, 40, 1200)))
    elif way == 2 and isinstance(inside, dict):
        inside[random.choice((f"{MARK} {MARK}", "k ", "K", "user_id", "\u0000", "a" * 300))] = random.choice(HOSTILE)
    elif way == 3:
        inside[key] = [inside[key]]
    else:
        inside[key] = random.choice(HOSTILE)
    return replace(sample, body=body)


def _spoil_text(sample: Sample, random: Random) -> Sample:
    """Put text that no encoder writes in the place of one value."""
    body = json.loads(json.dumps(sample.body))
    places = _places(body)
    if places:
        inside, key = random.choice(places)
        inside[key] = MARK + "here"
    text = json.dumps(body).encode().replace(f'"{MARK}here"'.encode(), random.choice(RAW_VALUES), 1)
    return replace(sample, body=None, raw=text)


def _spoil_path(sample: Sample, random: Random) -> Sample:
    path, mark, query = sample.path.partition("?")
    parts = path.split("/")
    hostile = random.choice((
        "..", ".", "", "%2f", "%2F..", "%00", "%ff", "%", "%zz", "%25", "a%0d%0aX: y", ";", "~", "\x7f", "\xe9",
        quote(MARK * 10), "a" * 600, quote("\U0001f600"), "similar", "%2fsimilar", "bulk", "*",
    ))  # fmt: skip
    way = random.randrange(5)
    if way == 0:
        parts[random.randrange(1, len(parts))] = hostile
    elif way == 1:
        parts.append(hostile)
    elif way == 2:
        parts[-1] += hostile
    elif way == 3:
        names = ("k", "limit", "offset", "category", "x")
        query = f"{random.choice(names)}={quote(str(random.choice(HOSTILE))[:300])}&{query}"
    else:
        query += "&" + query + "=&%"
    spoilt = "/".join(parts) + ("?" + query if query or mark else "")
    return replace(sample, path=spoilt.replace(" ", "%20").replace("\r", "%0d").replace("\n", "%0a"))


def _spoil_headers(sample: Sample, random: Random) -> Sample:
    odd: tuple[tuple[str, str], ...] = (
        ("Content-Type", random.choice(("text/plain", "", "application/json; charset=utf-16", "multipart/form-data"))),
        ("Content-Encoding", random.choice(("gzip", "identity", "br, gzip"))),
        ("X-Request-ID", random.choice(("a" * 65, MARK + " x", "\xe9", "ok-1"))),
        ("X-API-Key", random.choice(("", "x", "\xff" * 40, MARK * 100))),
        ("Accept", MARK),
        ("Host", "another"),
        ("Expect", "100-continue"),
        ("Connection", random.choice(("close", "keep-alive, upgrade", "TE"))),
        ("Upgrade", random.choice(("h2c", "websocket"))),
        ("X-Forwarded-For", "1.2.3.4"),
        ("Range", "bytes=0-1"),
        (MARK, MARK * 200),
    )
    return replace(sample, headers=(*sample.headers, random.choice(odd)))


def _places(body: Any) -> list[tuple[Any, Any]]:
    """Return all places of values inside a body, as the container and the key or index."""
    entries = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    found = []
    for key, value in entries:
        found.append((body, key))
        found += _places(value)
    return found
