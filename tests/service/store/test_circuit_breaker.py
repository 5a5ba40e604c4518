"""The circuit breaker: what opens it, and what closes it again."""

from __future__ import annotations

import asyncio

import pytest

from service.store.circuit_breaker import CircuitBreaker, CircuitOpen


def test_a_failure_while_others_are_answered_does_not_open_the_circuit() -> None:
    breaker = CircuitBreaker((OSError,), threshold=1)

    def answered_meanwhile() -> None:
        with breaker.watch():
            pass
        raise TimeoutError

    with pytest.raises(TimeoutError), breaker.watch():
        answered_meanwhile()
    assert not breaker.is_open
    with pytest.raises(TimeoutError), breaker.watch():
        raise TimeoutError
    assert breaker.is_open


def test_breaker_lets_one_probe_through_and_ignores_cancelled_calls() -> None:
    now = 0.0
    breaker = CircuitBreaker((OSError,), threshold=2, pause_s=10, clock=lambda: now)

    def call(outcome: type[BaseException] | None) -> None:
        with breaker.watch():
            if outcome is not None:
                raise outcome

    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            call(ConnectionResetError)
    with pytest.raises(CircuitOpen):
        call(None)
    now = 11.0
    with pytest.raises(asyncio.CancelledError):
        call(asyncio.CancelledError)
    was_open = breaker.is_open
    assert was_open
    with pytest.raises(CircuitOpen):
        call(None)  # the cancelled call was this pause's probe
    now = 22.0
    call(None)
    assert not breaker.is_open
    with pytest.raises(ConnectionResetError):
        call(ConnectionResetError)
    with pytest.raises(KeyError):
        call(KeyError)  # an answer, if an unwelcome one
    with pytest.raises(ConnectionResetError):
        call(ConnectionResetError)
    assert not breaker.is_open
