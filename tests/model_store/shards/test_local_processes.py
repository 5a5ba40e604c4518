"""Processes that raise and die, between others that do not."""

from __future__ import annotations

import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

from model_store.errors import BundleRefused
from model_store.shards.local_processes import LocalProcesses


def square(shard: int) -> int:
    return shard * shard


def trouble(shard: int) -> int:
    if shard == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if shard == 3:
        raise BundleRefused("damaged", "publish it again")
    if shard == 4:
        raise ZeroDivisionError("of a shard")
    if shard == 5:
        os._exit(3)
    return shard


def pid_of(folder: str, shard: int) -> int:
    (Path(folder) / str(os.getpid())).touch()
    return shard


def test_every_shard_ends_once() -> None:
    outcomes = list(LocalProcesses(2).run(square, range(7)))
    assert sorted((each.shard, each.result) for each in outcomes) == [(n, n * n) for n in range(7)]


def test_only_the_shard_of_a_dead_process_fails() -> None:
    outcomes = {each.shard: each for each in LocalProcesses(2).run(trouble, range(8))}
    assert {shard for shard, each in outcomes.items() if each.error is None} == {0, 1, 6, 7}
    errors = {shard: each.error for shard, each in outcomes.items() if each.error is not None}
    assert "killed by signal 9" in str(errors[2])
    assert isinstance(errors[3], BundleRefused)
    assert errors[3].hint == "publish it again"
    assert str(errors[4]) == "ZeroDivisionError: of a shard"
    assert "exit code 3" in str(errors[5])


def test_processes_are_kept_and_end(tmp_path: Path) -> None:
    assert len(list(LocalProcesses(2).run(partial(pid_of, str(tmp_path)), range(20)))) == 20
    assert 1 <= len(list(tmp_path.iterdir())) <= 2
    run = LocalProcesses(1).run(square, range(20))
    next(run)
    run.close()  # type: ignore[attr-defined]  # it is a generator
    assert not multiprocessing.active_children()
