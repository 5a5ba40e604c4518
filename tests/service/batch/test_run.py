"""Runs with shards that fail for a while, or for ever."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from model_store.errors import BatchIncomplete, BundleRefused, DataError
from model_store.shards.runners import ATTEMPTS, ComputeShard, Outcome, ShardFailed, T
from model_store.work_folder import MARK
from service.batch.plan import Asked, Plan, deciding_settings
from service.batch.preparation import prepare
from service.batch.run import finish_run
from service.batch.run_folder import RunFolder
from service.batch.users import UsersFile
from service.schemas.ranking import Exploration
from service.schemas.recommend import RecommendRequest
from tests.support.batch_runs import answers, manifest, walks, write_users
from tests.support.service_harness import fast_settings, live_store
from tests.support.shard_runners import InThisProcess


def prepared(
    folder: Path, users: int = 12, shard_size: int = 3, exploration: Exploration | None = None
) -> tuple[RunFolder, Plan]:
    live_store(folder / "models")
    settings = fast_settings(folder / "models", attribution_keys="a secret of the shop")
    asked = Asked(
        kind="recommend",
        version="",
        request=RecommendRequest(k=3, exploration=exploration),
        histories="file",
        shard_size=shard_size,
        settings=deciding_settings(settings),
    )
    file = UsersFile(write_users(folder / "users.parquet", walks(users)))
    run = RunFolder(folder / "out")
    run.path.mkdir()
    return run, asyncio.run(prepare(run, asked, file, settings))


def test_only_the_owner_can_read_histories_and_keys(tmp_path: Path) -> None:
    folder, _ = prepared(tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.inputs.iterdir() if path.name != MARK}
    assert modes == {"attribution.key": 0o600} | {f"users-{shard:05d}.parquet": 0o600 for shard in range(4)}
    assert folder.inputs.stat().st_mode & 0o777 == 0o700


class Faulty(InThisProcess):
    """Runner in which shard 2 fails so many times, as if its process died."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tried: list[int] = []

    def run(self, compute: ComputeShard[T], shards: Sequence[int]) -> Iterator[Outcome[T]]:
        for outcome in super().run(compute, shards):
            self.tried.append(outcome.shard)
            if outcome.shard == 2 and self.failures:
                self.failures -= 1
                yield Outcome(2, None, ShardFailed("the process died", "give it memory"))
            else:
                yield outcome


def test_a_shard_that_fails_is_tried_again_after_the_others(tmp_path: Path) -> None:
    folder, plan = prepared(tmp_path)
    runner = Faulty(failures=ATTEMPTS - 1)
    result = finish_run(folder, plan, runner, lambda _: None)
    assert runner.tried == [0, 1, 2, 3, 2, 2]
    assert (result.shards, result.rows, result.resumed_shards) == (4, 12, 0)
    assert len(answers(folder.path)) == 12


def test_a_long_shard_does_not_look_like_a_hang(tmp_path: Path) -> None:
    folder, plan = prepared(tmp_path)
    said: list[str] = []
    told = threading.Event()

    def say(message: str) -> None:
        said.append(message)
        told.set()

    class Slow(InThisProcess):
        def run(self, compute: ComputeShard[T], shards: Sequence[int]) -> Iterator[Outcome[T]]:
            assert told.wait(60)
            return super().run(compute, shards)

    finish_run(folder, plan, Slow(), say, tell_every_s=0.01)
    assert said[0].startswith("0 of 12 (0%), ")
    assert said[0].endswith(" so far, no shard has ended yet")


def test_a_shard_that_always_fails_is_reported_and_the_rest_finishes(tmp_path: Path) -> None:
    folder, plan = prepared(tmp_path)
    folder.input_path(2).write_bytes(b"no Parquet")
    said: list[str] = []
    with pytest.raises(BatchIncomplete, match="1 of 4 shards failed 3 times: shard 2") as failure:
        finish_run(folder, plan, InThisProcess(), said.append)
    assert failure.value.exit_code == 9
    assert "the other 3 are in" in failure.value.hint
    assert sum("shard 2 failed" in line for line in said) == ATTEMPTS
    assert [line["shard"] for line in manifest(folder.path)] == [0, 1, 3]
    assert folder.inputs.exists()  # so that it can be tried again


def test_a_model_that_cannot_be_opened_ends_the_run_at_once(tmp_path: Path) -> None:
    folder, plan = prepared(tmp_path)
    runner = Faulty(failures=0)
    with pytest.raises(BundleRefused, match="exchanged"):
        finish_run(folder, _begin_again(folder, plan), runner, lambda _: None)
    assert runner.tried == [0]


def _begin_again(folder: RunFolder, plan: Plan) -> Plan:
    other = plan.model_copy(update={"digest": "0" * 64})
    folder.begin(other)
    return other


def test_inputs_of_another_run_are_noticed(tmp_path: Path) -> None:
    folder, plan = prepared(tmp_path)
    folder.input_path(3).write_bytes(folder.input_path(0).read_bytes())
    short = plan.model_copy(update={"rows": 11})
    folder.begin(short)
    with pytest.raises(BatchIncomplete, match="has 3 users, not those of the plan"):
        finish_run(folder, short, InThisProcess(), lambda _: None)


def test_a_lost_file_is_computed_again_while_the_run_goes_on(tmp_path: Path) -> None:
    folder, plan = prepared(tmp_path)
    with pytest.raises(BatchIncomplete):
        finish_run(folder, plan, Faulty(failures=ATTEMPTS), lambda _: None)
    folder.output_path(1).unlink()
    result = finish_run(folder, plan, InThisProcess(), lambda _: None)
    assert result.resumed_shards == 2
    assert sorted(line["shard"] for line in manifest(folder.path)) == [0, 1, 2, 3]

    folder.output_path(1).unlink()
    with pytest.raises(DataError, match="1 files of a finished run are gone"):
        finish_run(folder, plan, InThisProcess(), lambda _: None)


def test_a_resumed_run_leaves_to_chance_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    folder, plan = prepared(tmp_path, exploration=Exploration(temperature=50, share=1.0))
    other = RunFolder(tmp_path / "other")
    shutil.copytree(folder.path, other.path)
    finish_run(folder, plan, InThisProcess(), lambda _: None)

    with pytest.raises(BatchIncomplete):
        finish_run(other, plan, Faulty(failures=ATTEMPTS), lambda _: None)
    other.output_path(1).unlink()
    finish_run(other, plan, InThisProcess(), lambda _: None)

    for shard in range(plan.shards):
        assert other.output_path(shard).read_bytes() == folder.output_path(shard).read_bytes()
    assert len({tuple(row["items"]) for row in answers(folder.path)}) > 6, "chance was at work"
