"""What several machines read together is the data set that one process reads, byte for byte."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model_store.errors import ConfigError, DataError
from model_store.shards.runners import ATTEMPTS, ComputeShard, Outcome, ShardFailed, T
from model_store.work_folder import WorkFolder
from tests.support.shard_runners import InThisProcess
from training.data import partitions
from training.data.prepare import Machines, PrepareOptions, prepare

ROOT = Path(__file__).parents[3]
EVENTS = ("view", "purchase", "cart", "", "impression")


class Backwards(InThisProcess):
    """Runner whose shards end in the opposite order."""

    def run(self, compute: ComputeShard[T], shards: Sequence[int]) -> Iterator[Outcome[T]]:
        return super().run(compute, shards[::-1])


class Dying(InThisProcess):
    """Runner in which the process of shard 1 dies so many times."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.tried: list[int] = []

    def run(self, compute: ComputeShard[T], shards: Sequence[int]) -> Iterator[Outcome[T]]:
        for outcome in super().run(compute, shards):
            self.tried.append(outcome.shard)
            if outcome.shard == 1 and self.deaths:
                self.deaths -= 1
                yield Outcome(1, None, ShardFailed("WorkerCrashedError: the worker died"))
            else:
                yield outcome


def write_logs(folder: Path, files: int = 3, rows: int = 300, events: bool = True) -> Path:
    """Write files with ties, repeats within and across files, and times in milliseconds."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(files):
        frame = pl.DataFrame(
            {
                "user_id": [f"u{each}" for each in rng.integers(0, 25, rows)],
                "item_id": [f"i{each}" for each in rng.integers(0, 30, rows)],
                "timestamp": 1_600_000_000_000 + rng.integers(0, 60, rows) * 700,
                "event": [EVENTS[each] for each in rng.integers(0, len(EVENTS), rows)],
            }
        )
        (frame if events else frame.drop("event")).write_csv(folder / f"part-{number}.csv")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def prepared(source: Path, out: Path, options: PrepareOptions, machines: Machines | None = None) -> dict[str, bytes]:
    told: list[str] = []
    prepare(str(source), out, options, told.append, machines=machines)
    return contents(out) | {"told": "\n".join(told).encode()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep_repeats": True, "min_user": 1, "min_item": 1},
        {"event_weights": {"view": 0.0}},
        {"ties": "shuffled", "split": "time", "min_length": 2},
    ],
    ids=["usual", "everything", "no views", "time"],
)
@pytest.mark.parametrize("count", [1, 4])
def test_the_files_are_those_of_a_single_process(tmp_path: Path, options: dict[str, object], count: int) -> None:
    source = write_logs(tmp_path / "logs")
    chosen = PrepareOptions.model_validate(options)
    alone = prepared(source, tmp_path / "alone", chosen)
    together = prepared(source, tmp_path / "together", chosen, Machines(Backwards(), count))
    assert {"interactions.parquet", "users.parquet", "set_aside.parquet", "dataset.json"} <= alone.keys()
    assert b"repeated user, item and second" in alone["told"] or chosen.keep_repeats
    assert together == alone


def test_items_types_in_some_files_and_skipped_lines_come_out_alike(tmp_path: Path) -> None:
    source = write_logs(tmp_path / "logs", files=2)
    plain = write_logs(tmp_path / "more", files=1, events=False) / "part-0.csv"
    (source / "part-7.csv").write_bytes(plain.read_bytes() + b"u1,,1600000000000\nu2,i2,yesterday\n")
    with (source / "part-0.csv").open("a") as log:
        log.write(",i3,1600000000000,view\n")
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n" + "".join(f"i{number},Title {number}\n" for number in range(40)))

    chosen = PrepareOptions(skip_bad=True, items_file=str(items))
    alone = prepared(source, tmp_path / "alone", chosen)
    assert alone["skipped.csv"].count(b"\n") == 4
    assert prepared(source, tmp_path / "together", chosen, Machines(InThisProcess(), 3)) == alone


def test_a_single_compressed_file_is_one_shard(tmp_path: Path) -> None:
    plain = write_logs(tmp_path / "logs", files=1) / "part-0.csv"
    source = tmp_path / "log.csv.gz"
    source.write_bytes(gzip.compress(plain.read_bytes()))
    alone = prepared(source, tmp_path / "alone", PrepareOptions())
    assert prepared(source, tmp_path / "together", PrepareOptions(), Machines(InThisProcess(), 2)) == alone


def test_a_bad_line_is_refused_with_the_words_of_a_single_process(tmp_path: Path) -> None:
    source = write_logs(tmp_path / "logs")
    with (source / "part-1.csv").open("a") as log:
        log.write("u1,,1600000000000,view\n")
    refusals = []
    for machines in (None, Machines(Backwards(), 2)):
        with pytest.raises(DataError) as refused:
            prepared(source, tmp_path / "out", PrepareOptions(), machines)
        refusals.append((str(refused.value), refused.value.hint))
    assert refusals[0] == refusals[1]
    assert "part-1.csv line 302: item id is empty" in refusals[0][0]
    assert not (tmp_path / "out" / partitions.PARTS).exists()


def test_a_shard_whose_process_dies_is_tried_again_after_the_others(tmp_path: Path) -> None:
    source = write_logs(tmp_path / "logs")
    alone = prepared(source, tmp_path / "alone", PrepareOptions())
    runner = Dying(deaths=ATTEMPTS - 1)
    assert prepared(source, tmp_path / "together", PrepareOptions(), Machines(runner, 2)) == alone
    assert runner.tried == [0, 1, 2, 1, 1, 0, 1]

    with pytest.raises(ShardFailed, match="the worker died"):
        prepared(source, tmp_path / "never", PrepareOptions(), Machines(Dying(deaths=ATTEMPTS), 2))

    # Wrong data are wrong each time: nothing is tried again.
    with (source / "part-2.csv").open("a") as log:
        log.write("u1,,1600000000000,view\n")
    runner = Dying(deaths=ATTEMPTS)
    with pytest.raises(DataError, match=r"part-2\.csv line 302"):
        prepared(source, tmp_path / "never", PrepareOptions(), Machines(runner, 2))
    assert runner.tried == [0, 1, 2]


def test_a_source_among_the_parts_is_refused_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    source = write_logs(out / partitions.PARTS)
    before = contents(source)
    machines = Machines(InThisProcess(), 2)
    with pytest.raises(DataError, match="whose files are removed"):
        prepared(source, out, PrepareOptions(), machines)
    with pytest.raises(DataError, match="whose files are removed"):
        prepared(source / "part-0.csv", out, PrepareOptions(), machines)

    # Nor is it removed when another source is read, or the items lie there.
    elsewhere = write_logs(tmp_path / "logs")
    with pytest.raises(ConfigError, match="would be removed"):
        prepared(elsewhere, out, PrepareOptions(), machines)
    with pytest.raises(DataError, match="whose files are removed"):
        prepared(elsewhere, out, PrepareOptions(items_file=str(source / "part-0.csv")), machines)
    assert contents(source) == before


def test_parts_of_a_preparation_that_was_killed_are_replaced(tmp_path: Path) -> None:
    source = write_logs(tmp_path / "logs")
    parts = WorkFolder(tmp_path / "out" / partitions.PARTS, ["file-*.parquet"])
    parts.make_empty()
    (parts.path / "file-00000-00000.parquet").write_text("half")
    (parts.path / "converted-00000").mkdir()
    together = prepared(source, tmp_path / "out", PrepareOptions(), Machines(InThisProcess(), 2))
    assert together == prepared(source, tmp_path / "alone", PrepareOptions())


def test_a_format_that_is_read_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "u.data").write_text("1\t2\t3\t4\n")
    with pytest.raises(DataError, match="format ml-100k, which several machines cannot read"):
        prepared(tmp_path / "ml", tmp_path / "out", PrepareOptions(), Machines(InThisProcess(), 2))


def test_machines_with_different_versions_of_polars_are_refused(tmp_path: Path) -> None:
    plan = partitions.Plan(tmp_path, (), PrepareOptions(), 2, PrepareOptions(), polars="0.0.1")
    with pytest.raises(ConfigError, match=r"the one that prepares has 0\.0\.1"):
        plan.require_same_polars()


def test_two_ray_nodes_prepare_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'etegrec[scale]' (240 MB)")
    source = write_logs(tmp_path / "logs")
    alone = prepared(source, tmp_path / "alone", PrepareOptions())
    # Ray's own threads and warnings stay in a process of their own.
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.ray_preparation", str(source), str(tmp_path / "ray")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "ray") == {name: data for name, data in alone.items() if name != "told"}
