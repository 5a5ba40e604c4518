"""A run whose machine is lost goes on from its mirror, and only one machine goes on with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.bundle.storage import Folder
from model_store.errors import CheckpointError, ConfigError, DataError, LockHeld, ModelStoreError
from training import cli, run_mirror
from training.run_folder import CONFIG
from training.run_mirror import LOCK, MARK, STATE, RunMirror, mirrored


@pytest.fixture
def url() -> str:
    return f"memory://bucket-{uuid.uuid4().hex}/run"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with one artefact."""
    folder = tmp_path / "run"
    (folder / "data").mkdir(parents=True)
    (folder / CONFIG).write_text("{}")
    (folder / "data" / "items.parquet").write_text("items")
    return folder


def nothing() -> None:
    """Open no run."""


def taken(folder: Path, url: str) -> RunMirror:
    """Return the mirror of a folder, taken over."""
    mirror = RunMirror(folder, url)
    mirror.bring()
    mirror.take_over()
    return mirror


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {STATE, LOCK}
    }


def mirror_contents(url: str) -> dict[str, bytes | None]:
    folder = Folder.at(url)
    return {entry.name: folder.read(entry.name, 100) for entry in folder.files() if entry.name != MARK}


def test_a_run_that_moves_to_another_machine_ends_with_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.support.training_forks", "moved", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not mirrored" not in done.stderr

    calm, second, bucket = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("calm", "second", "bucket")
    )
    del second[Path(STATE)], second[Path(LOCK)], bucket[Path(MARK)]
    assert bucket == second
    for files in (calm, second):
        del files[Path("seconds.json")]
    assert calm == second


def test_a_new_machine_gets_what_the_last_one_had(run: Path, tmp_path: Path, url: str) -> None:
    lines: list[str] = []
    with mirrored(run, url, nothing, lines.append):
        (run / "sasrec.safetensors").write_text("weights")
        (run / "tensorboard").mkdir()
        (run / "tensorboard" / "events.1").write_text("curves")
        (run / ".half.tmp").write_text("half")
    with mirrored(tmp_path / "new", url, nothing, lines.append):
        expected = {CONFIG: "{}", "data/items.parquet": "items", "sasrec.safetensors": "weights"}
        assert contents(tmp_path / "new") == expected
    assert lines == [f"3 files of the run brought from {url}"]


def test_the_command_mirrors_its_run_even_if_it_fails(tmp_path: Path, url: str) -> None:
    command = ["run", "--data", str(tmp_path / "absent.csv"), "--out", str(tmp_path / "run"), "--mirror", url]
    failed = CliRunner().invoke(cli.app, command)
    assert isinstance(failed.exception, DataError)
    assert mirror_contents(url) == {CONFIG: (tmp_path / "run" / CONFIG).read_bytes()[:101]}


def test_only_what_changed_is_copied_and_what_is_gone_goes(
    run: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: list[str] = []
    upload = Folder.upload

    def noting(self: Folder, source: Path, name: str) -> None:
        uploaded.append(name)
        upload(self, source, name)

    monkeypatch.setattr(Folder, "upload", noting)
    mirror = taken(run, url)
    assert mirror.copy() == 2

    for name in ("joint.checkpoint.safetensors", "b", "a"):
        (run / name).write_text(name)
        time.sleep(0.01)
    (run / "b").write_text("newer")
    uploaded.clear()
    assert mirror.copy() == 3
    assert uploaded == ["joint.checkpoint.safetensors", "a", "b"]  # as they were written
    assert mirror.copy() == 0

    (run / "joint.checkpoint.safetensors").unlink()
    assert mirror.copy() == 0
    assert mirror_contents(url).keys() == {CONFIG, "data/items.parquet", "a", "b"}

    assert taken(run, url).copy() == 0
    assert mirror_contents(url)["b"] == b"newer"

    Folder.at(url).remove("b")
    assert taken(run, url).copy() == 1  # what the mirror lost is copied again


def test_a_machine_that_was_taken_for_dead_copies_nothing_any_more(run: Path, tmp_path: Path, url: str) -> None:
    first = taken(run, url)
    first.copy()
    second = RunMirror(tmp_path / "new", url)
    assert second.bring() == 2
    second.take_over()

    (run / "late").write_text("late")
    with pytest.raises(CheckpointError, match="another machine goes on with the run in memory://"):
        first.copy()
    assert "late" not in mirror_contents(url)
    with pytest.raises(CheckpointError, match="another machine went on") as caught:
        taken(run, url)
    assert str(run) in caught.value.hint

    (tmp_path / "new" / "on").write_text("on")
    assert second.copy() == 1


def test_a_machine_that_slept_in_the_middle_of_a_copy_does_not_go_on_with_it(
    run: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = taken(run, url)
    first.copy()
    upload = Folder.upload

    def sleeping(self: Folder, source: Path, name: str) -> None:
        monkeypatch.setattr(Folder, "upload", upload)
        taken(tmp_path / "new", url)
        upload(self, source, name)

    monkeypatch.setattr(Folder, "upload", sleeping)
    (run / "a").write_text("a")
    (run / "b").write_text("b")
    with pytest.raises(CheckpointError, match="another machine goes on"):
        first.copy()
    assert len({"a", "b"} & mirror_contents(url).keys()) == 1


def test_a_process_that_died_while_it_took_over_is_no_other_machine(
    run: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(run, url).copy()

    def die(self: Folder, name: str, data: bytes) -> None:
        raise KeyboardInterrupt

    for folder in (run, tmp_path / "new"):
        with monkeypatch.context() as dying:
            dying.setattr(Folder, "write", die)
            with pytest.raises(KeyboardInterrupt):
                taken(folder, url)
        taken(folder, url)


def test_a_folder_that_is_gone_empties_no_mirror(run: Path, tmp_path: Path, url: str) -> None:
    mirror = taken(run, url)
    mirror.copy()
    before = mirror_contents(url)
    run.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is gone, or is no run folder any more"):
        mirror.copy()
    run.mkdir()
    with pytest.raises(CheckpointError, match="is gone, or is no run folder any more"):
        mirror.copy()
    assert mirror_contents(url) == before


def test_a_mirror_that_is_gone_is_not_taken_for_another_machines(run: Path, url: str) -> None:
    mirror = taken(run, url)
    mirror.copy()
    Folder.at(url).remove_all()
    with pytest.raises(CheckpointError, match=r"has no mirror\.json any more") as caught:
        mirror.copy()
    assert "remove" not in caught.value.hint
    assert taken(run, url).copy() == 2


def test_a_run_that_is_refused_leaves_the_mirror_to_the_other(run: Path, tmp_path: Path, url: str) -> None:
    mirror = taken(run, url)
    mirror.copy()

    def refuse() -> None:
        raise ConfigError("another configuration")

    with pytest.raises(ConfigError, match="another configuration"), mirrored(tmp_path / "new", url, refuse, print):
        pass
    (run / "late").write_text("late")
    assert mirror.copy() == 1


def test_a_folder_with_other_files_gets_no_run(run: Path, tmp_path: Path, url: str) -> None:
    taken(run, url).copy()
    other = tmp_path / "new" / "joint.safetensors"
    other.parent.mkdir()
    other.write_text("of another run")
    with pytest.raises(CheckpointError, match=r"is not empty \(it has joint.safetensors\)"):
        RunMirror(other.parent, url).bring()
    assert list(other.parent.iterdir()) == [other]


def test_names_that_lead_out_of_the_folder_are_left(run: Path, tmp_path: Path, url: str) -> None:
    taken(run, url).copy()
    for name in ("../evil", "data/../../evil", ".x.tmp"):
        Folder.at(url).write(name, b"evil")
    assert RunMirror(tmp_path / "below" / "new", url).bring() == 2
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(tmp_path.rglob(".x.tmp"))


def test_folders_on_another_disk_are_copied(run: Path, tmp_path: Path, url: str) -> None:
    (run / "data").rename(tmp_path / "large")
    (run / "data").symlink_to(tmp_path / "large")
    assert taken(run, url).copy() == 2


def test_one_process_at_a_time_mirrors_a_folder(run: Path, url: str) -> None:
    with mirrored(run, url, nothing, print):
        with pytest.raises(LockHeld, match="another process mirrors"), mirrored(run, url, nothing, print):
            pass
        (run / "late").write_text("late")
    assert "late" in mirror_contents(url)


def test_sigterm_copies_once_more(run: Path, url: str) -> None:
    def end() -> None:
        with mirrored(run, url, nothing, print):
            (run / "late").write_text("late")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        end()
    assert "late" in mirror_contents(url)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_of_something_else_is_refused(run: Path, url: str) -> None:
    Folder.at(url).write("thesis.txt", b"mine")
    with pytest.raises(CheckpointError, match="is not empty and no mirror of a run"):
        RunMirror(run, url).bring()
    assert mirror_contents(url) == {"thesis.txt": b"mine"}

    Folder.at(url).write(MARK, b"[]")
    with pytest.raises(CheckpointError, match=r"mirror\.json in memory://.* cannot be read"):
        RunMirror(run, url).bring()


@pytest.mark.parametrize("place", [".", "mirror", ".."])
def test_a_mirror_inside_the_run_is_refused(run: Path, place: str) -> None:
    with pytest.raises(ConfigError, match="lie in each other"):
        RunMirror(run, str(run / place))


@pytest.mark.parametrize("url", ["", "s3:/bucket/run", "s3:bucket"])
def test_a_mistyped_url_makes_no_folder(run: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="is neither a URL nor a path"):
        RunMirror(run, url)


@pytest.mark.parametrize("url", ["ftp://me:secret@127.0.0.1:1/run", "nothing://me:secret@host/run"])
def test_no_message_has_a_password(run: Path, url: str) -> None:
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        RunMirror(run, url)
    assert "secret" not in str(caught.value)
    assert url.partition("://")[0] in str(caught.value)


def test_a_mirror_that_is_away_stops_nothing_until_the_end(
    run: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_mirror, "COPY_EVERY_S", 0.001)
    lines: list[str] = []
    is_away = [True]
    upload = Folder.upload

    def failing(self: Folder, source: Path, name: str) -> None:
        if is_away[0]:
            raise ModelStoreError("cannot write: no route to host", "check the network")
        upload(self, source, name)

    monkeypatch.setattr(Folder, "upload", failing)
    with mirrored(run, url, nothing, lines.append):
        wait_until(lambda: len(lines) > 0)
        is_away[0] = False
        wait_until(lambda: CONFIG in mirror_contents(url))
    assert set(lines) == {"not mirrored: the mirror of the run: cannot write: no route to host"}

    (run / "late").write_text("late")
    is_away[0] = True
    with pytest.raises(CheckpointError, match="no route to host"), mirrored(run, url, nothing, lines.append):
        pass
    with pytest.raises(ZeroDivisionError), mirrored(run, url, nothing, lines.append):
        _ = 1 / 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
