"""Hostile requests by the thousand: our own mutations of accepted ones, and what the OpenAPI description leads to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from benchmarks.attack.findings import Findings
from benchmarks.attack.raw_client import Answer, Outcome, RawClient, encode
from benchmarks.attack.spoiled_requests import MARK, Sample, accepted_request, spoil, spoil_bytes

WORKERS = 24
RAW_WORKERS = 64
CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


async def fuzz_values(port: int, key: str, cases: int, first_seed: int, rate: float, end: float) -> Findings:
    """Send spoiled requests and judge the answers.

    Args:
        port: Port of the service.
        key: A key that may do everything, so that the values are judged and not the key.
        cases: Number of requests; each follows from ``first_seed`` and its own number.
        first_seed: Seed of the run.
        rate: Requests a second.
        end: ``time.monotonic()`` after which no more are sent.
    """
    findings = Findings()
    numbers = iter(range(cases))
    started = time.monotonic()

    async def work() -> None:
        client = RawClient(port)
        for number in numbers:
            wait_s = started + number / rate - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if time.monotonic() > end:
                break

            random = Random(f"{first_seed}-{number}")
            sample = spoil(accepted_request(random), random)
            outcome = await client.ask(sample.encode(key), method=sample.method)
            findings.cases += 1
            _judge(findings, outcome, f"seed {first_seed}-{number}: {sample.method} {sample.path}")
            await _read_back(findings, client, sample, outcome, key)
        await client.close()

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return findings


async def fuzz_bytes(port: int, key: str, cases: int, first_seed: int, end: float) -> Findings:
    """Send requests whose bytes are damaged, each on a connection of its own."""
    findings = Findings()
    numbers = iter(range(cases))

    async def work() -> None:
        for number in numbers:
            if time.monotonic() > end:
                break
            random = Random(f"{first_seed}-bytes-{number}")
            data = spoil_bytes(accepted_request(random).encode(key), random)
            client = RawClient(port)
            outcome = await client.ask(data)
            await client.close()
            findings.cases += 1
            _judge(findings, outcome, f"seed {first_seed}-bytes-{number}: {data[:120]!r}", may_close=True)

    await asyncio.gather(*(work() for _ in range(RAW_WORKERS)))
    return findings


def ready_at() -> float:
    """Return ``time.monotonic()`` in a process that has imported this module, which takes seconds."""
    return time.monotonic()


def run_fuzz(fuzz: Callable[..., Coroutine[Any, Any, Findings]], *arguments: Any) -> Findings:
    """Run :func:`fuzz_values` or :func:`fuzz_bytes` to its end, in whichever process this is called."""
    return asyncio.run(fuzz(*arguments))


def fuzz_description(port: int, key: str, examples: int, first_seed: int, end: float) -> Findings:
    """Let schemathesis try each operation of the OpenAPI description, with good and with bad values."""
    findings = Findings()
    described = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")

    found: Any
    for found in described.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:
            if time.monotonic() > end:
                return findings
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
                continue  # nothing that could be wrong

            @seed(first_seed)
            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def keeps(case: Any) -> None:
                findings.cases += 1
                try:
                    case.call_and_validate(checks=CHECKS, headers={"X-API-Key": key})
                except (FailureGroup, Failure) as broken:
                    findings.add("wrong", f"{case.method} {case.path}: {broken!r} {getattr(broken, 'exceptions', '')}")

            keeps()
    return findings


@schemathesis.serializer("application/jsonl")
def json_lines(_: Any, value: Any) -> bytes:
    """Return a bulk upload."""
    return str(value).encode() + b"\n"


def _judge(findings: Findings, outcome: Outcome, what: str, *, may_close: bool = False) -> None:
    """Count what is wrong with the outcome of one request."""
    answer = outcome.answer
    if outcome.ending == "silent":
        findings.add("hangs", f"{what}: no answer in {outcome.seconds:.0f} s")
    elif outcome.ending == "broken":
        findings.add("wrong", f"{what}: the answer is no HTTP")
    elif answer is None:
        if not may_close:
            findings.add("wrong", f"{what}: closed without an answer")
    elif answer.status >= 500 and not (answer.status == 504 and answer.slug == "deadline-missed"):
        findings.add("fivexx", f"{what}: {answer.status} {answer.body[:200]!r}")
    elif answer.status >= 400:
        _judge_refusal(findings, answer, what)


def _judge_refusal(findings: Findings, answer: Answer, what: str) -> None:
    if answer.body and not answer.is_problem:
        findings.add("wrong", f"{what}: {answer.status} is no problem document: {answer.body[:100]!r}")
    elif MARK.encode() in answer.body:
        findings.add("wrong", f"{what}: the error repeats input: {answer.body[:300]!r}")


async def _read_back(findings: Findings, client: RawClient, sample: Sample, outcome: Outcome, key: str) -> None:
    """Check that what was accepted can be read."""
    answer = outcome.answer
    if sample.method != "PUT" or answer is None or answer.status != 200:
        return
    item = sample.path.partition("?")[0].removeprefix("/items/").replace("/", "%2F")  # as a client encodes an id
    read = await client.ask(encode("GET", f"/items/{item}", headers=[("X-API-Key", key)]))
    status = read.answer.status if read.answer else 0
    findings.check(status == 200, f"PUT {sample.path} was accepted, GET answers {status}")
