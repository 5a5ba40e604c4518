"""Reading a bulk upload: JSON Lines, parsed as they come, so that a bad upload is known by all its bad lines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from starlette.requests import ClientDisconnect, Request

from service.catalogue.manager import SHOWN_LINES, Line
from service.errors import (
    BadJson,
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    FieldError,
    InvalidFields,
    InvalidLines,
    WrongContentType,
)
from service.http.body import content_type, parse
from service.schemas.items import MAX_PAYLOAD_BYTES, BulkItem
from service.settings import Settings

MEDIA_TYPES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines", "application/json")
_BLOCK = 262_144  # bytes parsed together, in a thread
_CLOSE = {"Connection": "close"}  # the rest of the body is not read, so the connection cannot be used again
_validate = partial(BulkItem.model_validate_json, strict=True)


class _Lines:
    """What was read so far: good lines as changes, bad ones counted and the first of them described."""

    def __init__(self) -> None:
        self.good: list[Line] = []
        self.wrong = 0
        self.problems: list[FieldError] = []
        self._number = 0

    def read(self, block: bytes) -> None:
        """Parse whole lines; empty ones are skipped."""
        for raw in block.split(b"\n"):
            self._number += 1
            if line := raw.strip():
                self._read_one(line)

    def _read_one(self, line: bytes) -> None:
        if len(line) > MAX_PAYLOAD_BYTES:
            self._refuse([FieldError("", f"must be at most {MAX_PAYLOAD_BYTES} bytes long")])
            return
        try:
            self.good.append(Line(self._number, parse(line, _validate).bulk_change))
        except BadJson as refused:
            self._refuse([FieldError("", str(refused))])
        except InvalidFields as refused:
            self._refuse(refused.fields)

    def _refuse(self, fields: Sequence[FieldError]) -> None:
        self.wrong += 1
        if len(self.problems) < SHOWN_LINES:
            where = str(self._number)
            self.problems += [
                FieldError(f"{where}.{each.field}" if each.field else where, each.message) for each in fields
            ]


async def read_lines(request: Request, settings: Settings) -> list[Line]:
    """All items of a bulk upload.

    Raises:
        WrongContentType, BodyTooLarge, BodyTooSlow, ClientGone: As for other bodies, with limits of their own.
        InvalidLines: Names line and field; lines count from 1.
        InvalidFields: There is no line.
    """
    if content_type(request) not in MEDIA_TYPES:
        raise WrongContentType(f"send JSON Lines with the header Content-Type: {MEDIA_TYPES[0]}", headers=_CLOSE)
    lines = _Lines()
    try:
        async with asyncio.timeout(settings.bulk_timeout_s):
            await _read(request, lines, settings.max_bulk_bytes)
    except TimeoutError:
        detail = f"the body must arrive within {settings.bulk_timeout_s:g} s (bulk_timeout_s)"
        raise BodyTooSlow(detail, headers=_CLOSE) from None
    except ClientDisconnect:
        raise ClientGone("the connection closed before the end of the body") from None
    if lines.wrong:
        raise InvalidLines(lines.wrong, lines.problems[:SHOWN_LINES])
    if not lines.good:
        raise InvalidFields([FieldError("", "must hold at least one line")])
    return lines.good


async def _read(request: Request, lines: _Lines, max_bytes: int) -> None:
    pending: list[bytes] = []
    size = waiting = 0
    async for chunk in request.stream():
        size += len(chunk)
        waiting += len(chunk)
        if size > max_bytes:
            raise BodyTooLarge(f"the body must be at most {max_bytes} bytes long (max_bulk_bytes)", headers=_CLOSE)
        pending.append(chunk)
        if waiting >= _BLOCK and b"\n" in chunk:
            whole, _, rest = b"".join(pending).rpartition(b"\n")
            pending, waiting = [rest], len(rest)
            await asyncio.to_thread(lines.read, whole)
    await asyncio.to_thread(lines.read, b"".join(pending))
