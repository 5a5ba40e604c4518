"""The brake on wrong keys, by address."""

from __future__ import annotations

from service.access.guess_brake import MAX_ADDRESSES, GuessBrake
from tests.service.access.test_limits import Clock


def test_an_address_may_be_wrong_a_few_times_a_minute_and_then_waits() -> None:
    clock = Clock()
    brake = GuessBrake(per_min=6, clock=clock)
    assert [brake.count("192.0.2.1") for _ in range(7)] == [0] * 6 + [10]
    assert brake.count("192.0.2.2") == 0  # others are not concerned
    clock.now += 10
    assert [brake.count("192.0.2.1"), brake.count("192.0.2.1")] == [0, 10]


def test_a_flood_of_addresses_takes_no_more_memory_and_forgets_the_quietest_first() -> None:
    brake = GuessBrake(per_min=1, clock=Clock())
    for number in range(MAX_ADDRESSES):
        brake.count(str(number))
    assert brake.count("0") > 0  # it comes again, so now number 1 was quiet for longest
    brake.count("one more")
    assert len(brake) == MAX_ADDRESSES
    assert brake.count("0") > 0
    assert brake.count("1") == 0


def test_without_a_limit_nothing_is_remembered() -> None:
    brake = GuessBrake(per_min=0)
    assert not any(brake.count("192.0.2.1") for _ in range(100))
    assert len(brake) == 0
