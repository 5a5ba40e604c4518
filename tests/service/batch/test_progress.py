"""What is said of a run while it lasts."""

from __future__ import annotations

import threading

from service.batch.progress import Progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_says_how_long_the_rest_takes() -> None:
    said: list[str] = []
    clock = Clock()
    progress = Progress(1000, 200, said.append, clock)
    clock.now += 8
    progress.tell()
    progress.add(80)
    progress.tell()
    clock.now += 12
    progress.tell()  # within a shard the time left runs down
    progress.add(40)
    progress.tell()
    clock.now += 1000
    progress.tell()
    assert said == [
        "200 of 1,000 (20%), 8 s so far, no shard has ended yet",
        "280 of 1,000 (28%), 10 a second, 72 s left",
        "280 of 1,000 (28%), 10 a second, 60 s left",
        "320 of 1,000 (32%), 6 a second, 113 s left",
        "320 of 1,000 (32%), 6 a second, 0 s left",
    ]


def test_it_is_said_while_a_shard_takes_long() -> None:
    said: list[str] = []
    twice = threading.Event()

    def say(message: str) -> None:
        said.append(message)
        if len(said) == 2:
            twice.set()

    progress = Progress(10, 0, say)
    with progress.told_regularly(every_s=0.01):
        assert twice.wait(60)
    count = len(said)
    assert said[0].startswith("0 of 10 (0%), ")
    assert not any(thread.name == "progress" for thread in threading.enumerate())
    assert len(said) == count
