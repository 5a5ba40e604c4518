"""Limits of a key, on a clock that only moves when told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.limits import KeyUsage, Limits, TokenBucket
from service.errors import RateLimited


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(usage: KeyUsage) -> tuple[str, str]:
    """The message and the Retry-After of a request that is refused."""
    with pytest.raises(RateLimited) as refused:
        usage.begin()
    return str(refused.value), refused.value.headers["Retry-After"]


def test_a_bucket_gives_its_capacity_at_once_and_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(per_s=2, capacity=3, clock=clock)
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now += 0.25
    assert bucket.take() == 0.25
    clock.now += 0.25
    assert [bucket.take(), bucket.take()] == [0, 0.5]
    clock.now += 1e6
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]  # it never holds more than its capacity


@given(st.lists(st.floats(0, 3), max_size=60), st.floats(0.5, 50), st.integers(1, 20))
def test_a_bucket_never_gives_more_than_it_may(pauses: list[float], per_s: float, capacity: int) -> None:
    clock = Clock()
    bucket = TokenBucket(per_s, capacity, clock)
    taken = 0
    for pause in pauses:
        clock.now += pause
        taken += not bucket.take()
        assert taken <= capacity + per_s * (clock.now - 1000) + 1e-6


def test_requests_a_second_are_limited_with_a_burst() -> None:
    clock = Clock()
    refused: list[str] = []
    usage = KeyUsage(Limits(requests_per_s=0.5, burst=2), on_refusal=refused.append, clock=clock)
    for _ in range(2):
        usage.begin()
    message, retry_after = refusal(usage)
    assert "0.5 requests a second" in message
    assert "(requests_per_s)" in message
    assert retry_after == "2"
    clock.now += 2
    usage.begin()
    refusal(usage)
    assert refused == ["requests_per_s"] * 2


def test_without_a_burst_two_seconds_worth_may_come_at_once() -> None:
    usage = KeyUsage(Limits(requests_per_s=4), clock=Clock())
    for _ in range(8):
        usage.begin()
    refusal(usage)


def test_requests_at_the_same_time_are_limited_and_those_refused_do_not_count() -> None:
    refused: list[str] = []
    usage = KeyUsage(Limits(concurrent=2), on_refusal=refused.append, clock=Clock())
    usage.begin()
    usage.begin()
    for _ in range(3):
        assert refusal(usage) == (
            "the service may answer 2 requests of this key at the same time at most (concurrent); try again later",
            "1",
        )
    usage.end()
    usage.begin()
    refusal(usage)
    assert refused == ["concurrent"] * 4


def test_a_request_refused_for_its_rate_does_not_count_as_running() -> None:
    clock = Clock()
    usage = KeyUsage(Limits(requests_per_s=1, burst=1, concurrent=1), clock=clock)
    usage.begin()
    usage.end()
    assert "requests_per_s" in refusal(usage)[0]
    clock.now += 1
    usage.begin()


def test_an_upload_is_never_cut_off_but_those_after_it_wait() -> None:
    clock = Clock()
    refused: list[str] = []
    usage = KeyUsage(Limits(bulk_bytes_per_min=600), on_refusal=refused.append, clock=clock)
    usage.check_bulk_bytes()
    usage.count_bulk_bytes(1800)  # three minutes' worth, of which one was there
    with pytest.raises(RateLimited) as too_much:
        usage.check_bulk_bytes()
    assert "600 bytes" in str(too_much.value)
    assert too_much.value.headers["Retry-After"] == "120"
    clock.now += 119
    with pytest.raises(RateLimited):
        usage.check_bulk_bytes()
    clock.now += 1
    usage.check_bulk_bytes()
    assert refused == ["bulk_bytes_per_min"] * 2


def test_no_limits_refuse_nothing() -> None:
    usage = KeyUsage(Limits(), clock=Clock())
    for _ in range(10_000):
        usage.begin()
        usage.count_bulk_bytes(10**9)
        usage.check_bulk_bytes()


def test_new_limits_hold_at_once_and_running_requests_still_count() -> None:
    usage = KeyUsage(Limits(), clock=Clock())
    usage.begin()
    usage.begin()
    usage.set_limits(Limits(concurrent=2))
    refusal(usage)
    usage.end()
    usage.begin()
