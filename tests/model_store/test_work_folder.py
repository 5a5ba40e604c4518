"""Only what a command wrote is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import ConfigError
from model_store.work_folder import WorkFolder

NAMES = ("users-*.parquet", "converted-*")


@pytest.fixture
def folder(tmp_path: Path) -> WorkFolder:
    return WorkFolder(tmp_path / "out" / "inputs", NAMES)


def fill(folder: WorkFolder) -> None:
    folder.make_empty(mode=0o700)
    (folder.path / "users-00000.parquet").touch()
    (folder.path / ".users-00001.parquet.tmp").touch()
    (folder.path / "converted-00000").mkdir()
    (folder.path / "converted-00000" / "table.csv").touch()


def test_own_files_are_replaced_and_removed(folder: WorkFolder) -> None:
    fill(folder)
    assert folder.foreign() is None
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.make_empty()
    assert [path.name for path in folder.path.iterdir()] == [".etegrec"]
    fill(folder)
    folder.remove()
    assert not folder.path.exists()
    folder.remove()


def test_a_folder_of_a_person_is_left_alone_whatever_its_files_are_called(folder: WorkFolder) -> None:
    folder.path.mkdir(parents=True)
    assert folder.foreign() is None
    mine = folder.path / "users-00000.parquet"
    mine.write_text("mine")
    assert folder.foreign() == mine
    with pytest.raises(ConfigError, match=r"users-00000\.parquet would be removed"):
        folder.make_empty()
    folder.remove()
    assert mine.read_text() == "mine"


def test_what_is_put_beside_own_files_is_kept(folder: WorkFolder) -> None:
    fill(folder)
    notes = folder.path / "notes.txt"
    notes.write_text("mine")
    assert folder.foreign() == notes
    with pytest.raises(ConfigError, match=r"notes\.txt would be removed"):
        folder.make_empty()
    assert (folder.path / "users-00000.parquet").exists()
    folder.remove()
    assert [path.name for path in folder.path.iterdir()] == ["notes.txt"]


def test_links_and_files_of_the_same_name_are_left_alone(folder: WorkFolder, tmp_path: Path) -> None:
    elsewhere = WorkFolder(tmp_path / "elsewhere", NAMES)
    fill(elsewhere)
    folder.path.parent.mkdir()
    folder.path.symlink_to(elsewhere.path)
    assert folder.foreign() == folder.path
    folder.remove()
    assert (elsewhere.path / "users-00000.parquet").exists()

    folder.path.unlink()
    folder.path.write_text("mine")
    assert folder.foreign() == folder.path
    folder.remove()
    assert folder.path.read_text() == "mine"
