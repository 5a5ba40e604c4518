"""Bulk uploads that would fill the memory: lines without an end, and too many at a time."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message

from service.app import create_app
from service.catalogue.manager import Line
from service.errors import InvalidLines
from service.http.bulk_upload import read_lines
from service.schemas.items import MAX_CONTAINERS, MAX_PAYLOAD_BYTES
from service.settings import Settings
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import fast_settings, live_store, metric, running, until

pytestmark = pytest.mark.anyio

JSONL = {"Content-Type": "application/jsonl"}
CHUNK = 65_536


class Upload:
    """Upload that counts how many of its chunks were read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.read = 0

    async def receive(self) -> Message:
        self.read += 1
        chunk = next(self._chunks, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    async def lines(self) -> list[Line]:
        scope: dict[str, Any] = {"type": "http", "headers": [(b"content-type", b"application/jsonl")]}
        return await read_lines(Request(scope, self.receive), Settings())


def chunks(text: bytes, size: int) -> list[bytes]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def item(number: int, **more: object) -> bytes:
    return json.dumps({"item_id": f"n{number}", "title": "", **more}).encode()


async def refused(upload: Upload) -> InvalidLines:
    with pytest.raises(InvalidLines) as error:
        await upload.lines()
    return error.value


@pytest.mark.parametrize("size", [1000, CHUNK, 10**6])
async def test_a_line_without_an_end_is_refused_as_soon_as_it_is_too_long(size: int) -> None:
    endless = (b"x" * size for _ in range(120_000_000 // size))
    upload = Upload(endless)
    tracemalloc.start()
    error = await refused(upload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert upload.read <= MAX_PAYLOAD_BYTES // size + 1
    assert peak < 1_000_000 + 2 * size  # of 120 MB
    assert [each.field for each in error.fields] == ["1"]
    assert str(MAX_PAYLOAD_BYTES) in error.fields[0].message
    assert error.headers == {"Connection": "close"}


@pytest.mark.parametrize("size", [999, CHUNK, 10**6])
async def test_lines_before_the_one_without_an_end_are_reported(size: int) -> None:
    text = item(1) + b"\nno json\n" + item(3) + b"\n\n" + b"x" * 900_000
    error = await refused(Upload(chunks(text, size)))
    assert [each.field for each in error.fields] == ["2", "5"]
    assert str(error).startswith("2 lines are wrong, nothing was stored")


@pytest.mark.parametrize("size", [997, CHUNK, 10**6])
async def test_a_long_line_that_ends_is_one_wrong_line_or_ends_the_upload(size: int) -> None:
    text = item(1) + b"\n" + item(2, title="t", attributes="x" * 70_000) + b"\n" + item(3) + b"\nno json\n"
    error = await refused(Upload(chunks(text, size)))
    assert error.fields[0].field == "2"
    assert str(MAX_PAYLOAD_BYTES) in error.fields[0].message


@pytest.mark.parametrize("size", [13, 4096, CHUNK, 10**7])
async def test_lines_arrive_whole_however_they_are_cut(size: int) -> None:
    longest = item(0, attributes={"a": "x" * (MAX_PAYLOAD_BYTES - 55)})
    assert MAX_PAYLOAD_BYTES - 10 <= len(longest) <= MAX_PAYLOAD_BYTES
    texts = [longest, b"", *(item(n, title="t" * (n % 700)) for n in range(1, 800 if size > 13 else 20)), longest]
    found = await Upload(chunks(b"\n".join(texts), size)).lines()
    assert [line.number for line in found] == [n for n, text in enumerate(texts, 1) if text]
    expected = [json.loads(text)["item_id"] for text in texts if text]
    assert [line.change.item_id for line in found] == expected


async def test_good_lines_are_not_kept_once_one_is_wrong() -> None:
    good = b"\n".join(item(n, attributes="x" * 20_000) for n in range(50)) + b"\n"
    upload = Upload([b"no json\n", *([good] * 40)])
    tracemalloc.start()
    await refused(upload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert upload.read > 40
    assert peak < 8_000_000  # of 40 MB


async def test_an_item_of_ever_so_many_parts_is_refused_before_it_is_parsed() -> None:
    most = item(1, attributes={"a": [[]] * (MAX_CONTAINERS - 4)})
    assert len(await Upload([most]).lines()) == 1
    error = await refused(Upload([item(1, attributes={"a": [{}] * MAX_CONTAINERS})]))
    assert "1024 lists and objects" in error.fields[0].message


async def test_more_uploads_than_may_be_in_memory_are_told_to_come_back(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = create_app(fast_settings(tmp_path, catalogue_poll_s=0.01, max_bulk_uploads=2), coders=hash_coder)
    service = app.state.service
    goes_on = asyncio.Event()
    begun = 0

    async def slow(number: int) -> AsyncIterator[bytes]:
        nonlocal begun
        begun += 1
        yield item(number) + b"\n"
        await goes_on.wait()

    def upload(client: httpx.AsyncClient, number: int) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(client.post("/items/bulk", content=slow(number), headers=JSONL))

    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        two = [upload(client, number) for number in range(2)]
        await until(lambda: begun == 2)
        third = await client.post("/items/bulk", content=item(3), headers=JSONL)
        single = await client.put("/items/single", json={"title": "t"})
        goes_on.set()
        assert [(await each).status_code for each in two] == [200, 200]
        assert (await client.post("/items/bulk", content=item(3), headers=JSONL)).status_code == 200
        wrong = await client.post("/items/bulk", content=b"no json", headers=JSONL)
        assert wrong.status_code == 422
        both = [upload(client, number) for number in range(2)]
        assert [(await each).status_code for each in both] == [200, 200]  # a refused upload has left its place
        assert metric(service, "etegrec_rejected_total", slug="too-many-uploads") == 1
    assert (third.status_code, third.headers["retry-after"]) == (429, "5")
    assert third.json()["type"] == "urn:etegrec:problem:too-many-uploads"
    assert "(max_bulk_uploads)" in third.json()["detail"]
    assert single.status_code == 200
