"""The folder of a run: a run goes on in it as it began, and nothing of others in it is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.batch.run_folder import RunFolder
from tests.support.batch_runs import answers, batch, files, manifest, walks, write_users

ROOT = Path(__file__).parents[3]


def test_a_finished_run_does_nothing_again(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = write_users(tmp_path / "users.parquet", walks(4))
    options = ["--users", str(users), "--shard-size", "2"]
    assert batch("recommend", store, tmp_path / "out", *options) == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert batch("recommend", store, tmp_path / "out", *options) == 0
    assert "2 of 2 shards are done already" in capsys.readouterr().err
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert {name: at for name, at in after.items() if name != ".lock"} == {
        name: at for name, at in before.items() if name != ".lock"
    }


def test_a_run_goes_on_only_as_it_began(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = write_users(tmp_path / "users.parquet", walks(4))
    out = tmp_path / "out"
    assert batch("recommend", store, out, "--users", str(users)) == 0
    assert batch("recommend", store, out, "--users", str(users), "--k", "11") == 3
    assert (
        "--k, --filter, --exclude-seen, --max-per-prefix, --rules, --placement or --placement-file differs"
        in capsys.readouterr().err
    )
    write_users(users, walks(5))
    assert batch("recommend", store, out, "--users", str(users)) == 3
    assert "the content of --users differs" in capsys.readouterr().err
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.txt").touch()
    assert batch("recommend", store, tmp_path / "else", "--users", str(users)) == 3
    assert "is not empty and holds no batch run (it has thesis.txt)" in capsys.readouterr().err


@pytest.mark.parametrize("with_notes", [False, True])
def test_a_folder_named_like_that_of_the_inputs_is_kept(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], with_notes: bool
) -> None:
    inputs = tmp_path / "shop" / "inputs"
    inputs.mkdir(parents=True)
    monkeypatch.chdir(inputs.parent)
    users = write_users(inputs / "users.parquet", walks(2))
    if with_notes:
        (inputs / "notes.txt").write_text("mine")
    before = files(inputs)

    assert batch("recommend", store, Path(), "--users", "inputs/users.parquet") == 3
    assert "inputs/users.parquet lies in the folder of the run" in capsys.readouterr().err
    elsewhere = write_users(tmp_path / "users.parquet", walks(2))
    assert batch("recommend", store, Path(), "--users", str(elsewhere)) == 3
    assert f"(it has inputs/{'notes.txt' if with_notes else 'users.parquet'})" in capsys.readouterr().err
    assert batch("similar", store, Path()) == 3

    # Not even where a run was finished: its own inputs are gone, and this folder came later.
    users.rename(tmp_path / "own.parquet")
    (inputs / "notes.txt").unlink(missing_ok=True)
    inputs.rmdir()
    assert batch("recommend", store, Path(), "--users", str(elsewhere)) == 0
    inputs.mkdir()
    (tmp_path / "own.parquet").rename(users)
    assert batch("recommend", store, Path(), "--users", str(elsewhere)) == 0
    assert files(inputs) == before


def test_a_foreign_lock_or_manifest_is_no_run(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = write_users(tmp_path / "users.parquet", walks(1))
    for name in (".lock", "manifest.jsonl"):
        (tmp_path / "out").mkdir()
        mine = tmp_path / "out" / name
        mine.write_text("mine")
        assert batch("recommend", store, tmp_path / "out", "--users", str(users)) == 3
        assert f"(it has {name})" in capsys.readouterr().err
        assert mine.read_text() == "mine"
        shutil.rmtree(tmp_path / "out")


def test_a_run_that_was_killed_while_it_prepared_begins_anew(store: Path, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", walks(3))
    folder = RunFolder(tmp_path / "out")
    with folder.lock():
        folder.clear_inputs()
        folder.write_input("users-00000.parquet", b"half")
        (folder.inputs / ".users-00001.parquet.tmp").touch()
        (folder.path / ".plan.json.tmp").touch()
    assert batch("recommend", store, folder.path, "--users", str(users)) == 0
    assert len(answers(folder.path)) == 3


def test_a_killed_run_repeats_unfinished_shards_only(store: Path, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users.parquet", walks(400))
    options = ["--users", str(users), "--shard-size", "10"]
    assert batch("recommend", store, tmp_path / "whole", *options) == 0

    out = tmp_path / "killed"
    command = [sys.executable, "-m", "service.batch.cli", "recommend", "--store", str(store), "--out", str(out)]
    started = subprocess.Popen([*command, "--processes", "1", *options], cwd=ROOT, env=os.environ.copy())
    deadline = time.monotonic() + 120
    while not (out / "manifest.jsonl").exists() and started.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    started.wait()
    # The process for shards notices that nobody listens, and ends after the one that it computes.
    done = {line["file"] for line in manifest(out)}
    written = {name: (out / name).stat().st_mtime_ns for name in done}
    with (out / "manifest.jsonl").open("a") as cut_off:
        cut_off.write('{"shard": 7, "fi')  # as if it was killed in the middle of a line

    assert batch("recommend", store, out, *options) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in done} == written
    assert sorted(line["shard"] for line in manifest(out)) == list(range(40))
    assert files(out) == files(tmp_path / "whole")
    assert not list(out.glob(".*part-*"))


def test_two_runs_do_not_share_a_folder(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = write_users(tmp_path / "users.parquet", walks(1))
    with RunFolder(tmp_path / "out").lock():
        assert batch("recommend", store, tmp_path / "out", "--users", str(users)) == 7
    assert "another batch run works in" in capsys.readouterr().err
