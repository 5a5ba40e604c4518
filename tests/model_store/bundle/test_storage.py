"""Folders: what the model store asks of every file system."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.bundle.storage import Entry, Folder
from model_store.errors import ModelStoreError


@pytest.fixture(params=["path", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """A folder on a disk, and one in memory, which stands for a bucket."""
    opened = Folder.at(str(tmp_path) if request.param == "path" else f"memory://{uuid.uuid4().hex}")
    yield opened
    if request.param == "memory":
        opened.remove_all()


@pytest.mark.parametrize("size", [0, 5, 3 << 20])
def test_a_file_is_hashed_piece_by_piece_up_to_its_limit(folder: Folder, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    folder.write("file", data)
    whole = hashlib.sha256(data).hexdigest()
    assert folder.digest("file", limit=size) == (whole, size)
    assert folder.digest("file", limit=size + 10) == (whole, size)
    if size:
        cut = data[:size]
        assert folder.digest("file", limit=size - 1) == (hashlib.sha256(cut).hexdigest(), size), "one byte more"
    if size > 1:
        assert folder.digest("file", limit=size - 2) == (hashlib.sha256(data[: size - 1]).hexdigest(), size - 1)
    assert folder.digest("absent", limit=1) is None


def test_a_file_is_read_to_one_byte_beyond_its_limit(folder: Folder) -> None:
    folder.write("file", b"12345")
    assert folder.read("file", limit=5) == b"12345"
    assert folder.read("file", limit=3) == b"1234"
    assert folder.read("absent", limit=3) is None


def test_entries_are_told_by_name_kind_and_size(folder: Folder) -> None:
    assert folder.entries() == []
    folder.write("b", b"12")
    folder.write("sub/a", b"1")
    assert folder.entries() == [Entry("b", "file", 2), Entry("sub", "folder", 0)]
    assert list(folder.files()) == [Entry("b", "file", 2), Entry("sub/a", "file", 1)]
    assert folder.child("sub").name == "sub"
    folder.remove("b")
    folder.remove("b")
    assert [entry.name for entry in folder.files()] == ["sub/a"]
    folder.remove_all()
    folder.remove_all()
    assert folder.entries() == []


def test_a_replaced_file_leaves_nothing_beside_it(folder: Folder) -> None:
    folder.write("file", b"old")
    staging = folder.child(".staging")
    folder.replace("file", b"new", staging)
    assert folder.read("file", limit=10) == b"new"
    assert [entry.name for entry in folder.entries()] == ["file"]


def test_the_newest_change_is_that_of_any_file(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    folder.write("old", b"1")
    folder.write("sub/new", b"1")
    hour = 3600.0
    for path, at in ((tmp_path / "old", hour), (tmp_path / "sub" / "new", 3 * hour), (tmp_path, 2 * hour)):
        os.utime(path, (at, at))
    assert folder.newest_change() == 3 * hour
    assert folder.child("absent").newest_change() is None


def test_an_error_of_the_system_names_the_action_and_what_to_check(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(ModelStoreError, match=r"cannot read file in .*: Is a directory") as caught:
        Folder.at(str(tmp_path)).read("file", limit=1)
    assert "check that it exists" in caught.value.hint


def test_a_staging_folder_elsewhere_is_not_used(tmp_path: Path) -> None:
    """A rename works on one file system only; where one side is no local folder, the file is written in its place."""
    here, elsewhere = Folder.at(str(tmp_path)), Folder.at(f"memory://{uuid.uuid4().hex}")
    here.replace("file", b"new", elsewhere)
    assert here.read("file", limit=10) == b"new"
    assert elsewhere.entries() == []
