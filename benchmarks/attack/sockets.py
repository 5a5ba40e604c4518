"""Attacks on the connection itself: floods, slow clients, smuggling, and heads that HTTP forbids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from benchmarks.attack.findings import Findings
from benchmarks.attack.raw_client import RawClient, encode
from benchmarks.service_process import ServiceProcess

HEALTH_S = 5.0
"""Longest time that a health probe may take under attack."""

CLOSED_AFTER_S = 30.0
"""Time after which a connection that sends nearly nothing must be gone: the service's limits are 10 s."""

GROWTH_MB = 64.0
"""Largest growth of memory during one flood."""


@dataclass(frozen=True)
class Oddity:
    """Bytes that no honest client sends, and the statuses that may answer them (0: closed without an answer)."""

    name: str
    data: bytes
    allowed: tuple[int, ...]


def oddities(key: str) -> list[Oddity]:
    """Return heads and framings that must not be misunderstood."""
    ok = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"
    post = b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nX-API-Key: " + key.encode()
    hidden = b"GET /model HTTP/1.1\r\nHost: a\r\n\r\n"
    refused = (0, 400)
    return [
        Oddity("no host", b"GET /health/live HTTP/1.1\r\n\r\n", refused),
        Oddity("two hosts", ok + b"Host: b\r\n\r\n", refused),
        Oddity("head of 70 KB", ok + b"X: " + b"a" * 70_000 + b"\r\n\r\n", (0, 400, 431)),
        Oddity("5,000 headers of 14 bytes", ok + b"X-Abcdefg: 1\r\n" * 5000 + b"\r\n", (0, 400, 431)),
        Oddity("length twice", post + b"\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\n{}" + hidden, refused),
        Oddity("length and chunks", post + b"\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
               + hidden, refused),
        Oddity("chunks not last", post + b"\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", refused),
        Oddity("strange chunks", post + b"\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", refused),
        Oddity("length with a sign", post + b"\r\nContent-Length: +2\r\n\r\n{}", refused),
        Oddity("negative length", post + b"\r\nContent-Length: -2\r\n\r\n{}", refused),
        Oddity("huge length", post + b"\r\nContent-Length: 99999999999999999999\r\n\r\n{}", refused),
        Oddity("hexadecimal length", post + b"\r\nContent-Length: 0x2\r\n\r\n{}", refused),
        Oddity("huge chunk", post + b"\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n{}", refused),
        Oddity("folded header", ok + b"X: 1\r\n  2\r\n\r\n", refused),
        Oddity("blank before colon", ok + b"X : 1\r\n\r\n", refused),
        Oddity("zero byte in a header", ok + b"X: a\0b\r\n\r\n", refused),
        Oddity("HTTP/0.9", b"GET /health/live\r\n\r\n", refused),
        Oddity("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", refused),
        Oddity("TLS hello", bytes.fromhex("160301020001000001fc0303") + b"\0" * 100, refused),
        Oddity("CONNECT", b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", (0, 400, 404, 405)),
        Oddity("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", (0, 400, 404, 405)),
        Oddity("key as a trailer", post.partition(b"\r\nX-API-Key")[0] + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
               b"f\r\n{\"history\":[]}\n\r\n0\r\nX-API-Key: " + key.encode() + b"\r\n\r\n", (0, 400, 401)),
        Oddity("encoded slash", b"GET /health%2flive HTTP/1.1\r\nHost: a\r\n\r\n", (404,)),
        Oddity("blank after the key", b"GET /model HTTP/1.1\r\nHost: a\r\nX-API-Key: " + key.encode() + b" \t\r\n\r\n",
               (200,)),
        Oddity("HEAD", b"HEAD /health/live HTTP/1.1\r\nHost: a\r\n\r\n", (200,)),
        Oddity("lower-case method", b"get /health/live HTTP/1.1\r\nHost: a\r\n\r\n", (0, 400, 405)),
        Oddity("bare line feeds", b"GET /health/live HTTP/1.1\nHost: a\n\n", (0, 200, 400)),
        Oddity("absolute target", b"GET http://a/health/live HTTP/1.1\r\nHost: a\r\n\r\n", (0, 200, 400, 404)),
    ]  # fmt: skip


async def try_oddities(port: int, key: str) -> Findings:
    """Send each oddity on a connection of its own; smuggled requests must not be answered."""
    findings = Findings()
    for odd in oddities(key):
        client = RawClient(port)
        outcome = await client.ask(odd.data, method="HEAD" if odd.name == "HEAD" else "GET")
        status = outcome.answer.status if outcome.answer else 0
        findings.check(status in odd.allowed, f"{odd.name}: {outcome.ending} {status}, allowed {odd.allowed}")
        if outcome.ending == "silent":
            findings.add("hangs", odd.name)
        await client.close()
    return findings


async def flood(service: ServiceProcess, seconds: float) -> Findings:
    """Send without end: requests that nobody waits for, and trailers; memory and others' health are watched."""
    findings = Findings()
    pipelined = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n" * 500
    chunked = b"GET /health/live HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    await _flood_with(service, "pipelined requests", b"", pipelined, seconds, findings)
    await _flood_with(service, "trailers", chunked, b"a:b\r\n" * 4000, seconds, findings)
    await _flood_with(
        service, "one endless header", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a" * 60_000, seconds, findings
    )
    return findings


async def drip(service: ServiceProcess, connections: int) -> Findings:
    """Hold connections with one byte a second, before and after the answer; probes must still be answered."""
    findings = Findings()
    early = encode("POST", "/recommend", headers=[("Content-Type", "application/json"), ("Content-Length", "1000")])
    kinds = {"after an early answer": early, "inside a head": b"GET /health/live HTTP/1.1\r\nX: ", "silent": b""}
    starts = list(kinds.values())
    holding = asyncio.gather(*(_hold(service.port, starts[number % len(starts)]) for number in range(connections)))
    await _probe(service.port, findings, "dripping clients", holding.done)
    held = await holding

    kept = [each for each in held if each > CLOSED_AFTER_S]
    findings.cases += connections
    if kept:
        findings.add(
            "hangs", f"{len(kept)} of {connections} connections were held for more than {CLOSED_AFTER_S:.0f} s"
        )
    return findings


async def _flood_with(
    service: ServiceProcess, name: str, head: bytes, block: bytes, seconds: float, findings: Findings
) -> None:
    before = service.memory_mb()
    sent = 0
    end = time.monotonic() + seconds
    async with _watched(service, findings, name):
        client = RawClient(service.port)
        try:
            async with asyncio.timeout(seconds + 1):
                await client.send(head)
                while time.monotonic() < end:
                    await client.send(block)  # answers are never read
                    sent += len(block)
                    await asyncio.sleep(0)
        except (TimeoutError, OSError):
            await asyncio.sleep(max(0.0, min(1.0, end - time.monotonic())))  # refused: what the service should do
        await client.close()

    growth = service.memory_mb() - before
    findings.facts[name] = {"sent_mb": round(sent / 1e6, 1), "growth_mb": round(growth, 1)}
    findings.check(growth <= GROWTH_MB, f"{name}: memory grew by {growth:.0f} MB")


@asynccontextmanager
async def _watched(service: ServiceProcess, findings: Findings, name: str) -> AsyncIterator[None]:
    """Probe health from another address meanwhile."""
    task = asyncio.create_task(_probe(service.port, findings, name, lambda: False))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _probe(port: int, findings: Findings, name: str, is_over: Callable[[], bool]) -> None:
    while not is_over():
        client = RawClient(port, "127.0.0.1")
        outcome = await client.ask(encode("GET", "/health/live"), timeout_s=HEALTH_S)
        await client.close()
        is_answered = outcome.answer is not None and outcome.answer.status == 200
        findings.check(is_answered, f"{name}: a health probe got {outcome.ending} after {outcome.seconds:.1f} s")
        await asyncio.sleep(0.2)


async def _hold(port: int, first: bytes) -> float:
    """Keep a connection open with a byte a second; return the seconds until the service closed it."""
    started = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
    except OSError:
        return 0.0
    reading = asyncio.create_task(_read_all(reader))
    with suppress(OSError):
        writer.write(first)
        while not reading.done() and time.monotonic() - started <= CLOSED_AFTER_S:
            await asyncio.wait([reading], timeout=1)
            if first and not reading.done():
                writer.write(b"x")
                await writer.drain()
    held = time.monotonic() - started
    reading.cancel()
    writer.close()
    return held


async def _read_all(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(65_536):
            pass
