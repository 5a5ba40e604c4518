"""Promotion, rollback and reading of versions: the registry says what is live, and what was."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest

from model_store.bundle import registry
from model_store.bundle.registry import STORE_ENV, ModelStore, default_store
from model_store.bundle.storage import Folder
from model_store.errors import BundleRefused, ConfigError, ModelStoreError, VersionNotFound
from tests.support.bundles import bundle_files, publish_small


def damage(store: ModelStore, version: str, name: str = "search.onnx") -> None:
    """Flip one bit of a file: its size, and so the list of files, stays as it was sealed."""
    folder = store.root.child(version)
    data = folder.read(name, limit=1 << 20)
    assert data
    middle = len(data) // 2
    folder.write(name, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


def test_a_store_that_does_not_exist_is_empty_and_stays_so(store: ModelStore) -> None:
    assert store.versions() == []
    assert store.live() is None
    assert store.previous() is None
    assert store.gc().removed == ()
    with pytest.raises(VersionNotFound, match="no version is live"):
        store.bundle()
    with pytest.raises(VersionNotFound, match="no version is live"):
        store.rollback()
    with pytest.raises(VersionNotFound):
        store.promote("absent")
    assert not store.root.entries()


def test_promote_and_rollback_walk_the_history(store: ModelStore) -> None:
    a, b, c = (publish_small(store, seed) for seed in range(3))
    assert store.versions() == [a, b, c]
    assert store.live() is None, "publishing does not promote"
    assert store.promote(a) is None
    assert store.promote(b) == a
    assert store.promote(c) == b
    assert store.promote(c) == c, "again changes nothing"
    assert store.bundle().version == c
    assert store.rollback() == b
    assert store.rollback() == a
    with pytest.raises(VersionNotFound, match="nothing to roll back to"):
        store.rollback()
    assert store.live() == a
    assert list(store.withheld()) == [b, c], "newest first"
    assert store.promote(c) == a
    assert store.previous() == a
    assert store.live_before() == [a]
    assert list(store.withheld()) == [b], "a promotion overrides"


def test_a_rollback_is_remembered_with_reason_and_origin(store: ModelStore) -> None:
    a, b = (publish_small(store, seed) for seed in range(2))
    store.promote(a)
    store.promote(b)
    before = datetime.now(UTC).replace(microsecond=0)
    store.rollback("clicks fell")
    [found] = ModelStore(store.url).withheld().values()
    assert (found.version, found.state, found.reason) == (b, "rolled back", "clicks fell")
    assert before <= found.at <= datetime.now(UTC)
    assert found.is_from(store.bundle(b).manifest.origin)
    store.gc(keep=0)
    assert store.versions() == [a]
    assert list(store.withheld()) == [b], "the memory outlives the version"


def test_a_further_rollback_never_goes_to_a_version_that_was_rolled_back(store: ModelStore) -> None:
    a, b, c = (publish_small(store, seed) for seed in range(3))
    for version in (a, b, c, b):
        store.promote(version)
    assert store.rollback() == c  # b is bad
    assert store.previous() == a
    assert store.rollback() == a  # c, too; before it was b, which was rejected already
    with pytest.raises(VersionNotFound, match="nothing to roll back to"):
        store.rollback()
    assert set(store.withheld()) == {b, c}


def test_a_held_back_version_is_remembered_until_somebody_promotes_it(store: ModelStore) -> None:
    a, b = (publish_small(store, seed) for seed in range(2))
    store.promote(a)
    store.withhold(b, "held back", "too good")
    store.withhold(b, "held back", "much too good")
    assert [one.words.split(" on ")[0] for one in store.withheld().values()] == ["held back"]
    assert store.withheld()[b].reason == "much too good"
    store.promote(b)
    assert store.withheld() == {}
    assert store.rollback() == a


def test_a_rollback_from_a_version_that_cannot_be_opened_is_remembered_by_name(store: ModelStore) -> None:
    a, b, c = (publish_small(store, seed) for seed in range(3))
    for version in (a, b, c):
        store.promote(version)
    origin = store.bundle(a).manifest.origin
    damage(store, c, "manifest.json")
    assert store.rollback() == b
    store.root.child(b).remove_all()
    assert store.rollback() == a
    assert [(one.version, one.is_from(origin)) for one in store.withheld().values()] == [(b, False), (c, False)]


def test_a_rollback_that_fails_changes_nothing(store: ModelStore) -> None:
    a, b = (publish_small(store, seed) for seed in range(2))
    store.promote(a)
    store.promote(b)
    with pytest.raises(ConfigError, match="the reason has"):
        store.rollback("x" * 501)
    damage(store, a)
    with pytest.raises(BundleRefused):
        store.rollback()
    assert (store.live(), store.withheld()) == (b, {})


def test_a_killed_rollback_never_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two writes, the version is live still; the next rollback finds everything as it was."""
    store = ModelStore(tmp_path)
    a, b = (publish_small(store, seed) for seed in range(2))
    store.promote(a)
    store.promote(b)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "write_live", killed)
        with pytest.raises(KeyboardInterrupt):
            store.rollback("first try")
    assert (store.live(), list(store.withheld())) == (b, [b])
    assert store.rollback("second try") == a
    assert store.withheld()[b].reason == "second try"


def test_a_version_is_opened_by_name_and_the_live_one_without(store: ModelStore) -> None:
    a, b = (publish_small(store, seed) for seed in range(2))
    store.promote(b)
    assert store.bundle(a).version == a
    assert store.bundle().version == store.bundle(b).version == b


def test_only_folders_with_the_name_of_a_version_are_versions(store: ModelStore) -> None:
    version = publish_small(store)
    store.root.child("Notes of Ann").write("manifest.json", b"{}")
    store.root.child("unsealed").write("search.onnx", b"x")
    store.root.write("plain", b"a file")
    assert store.versions() == [version]


def test_the_live_version_is_never_the_one_before_it(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    a, b = (publish_small(store, seed) for seed in range(2))
    for version in (a, b, a):
        store.promote(version)
    assert store.previous() == b
    store.root.child(b).remove_all()
    assert store.previous() is None, "a was live before b, and is live"
    with pytest.raises(VersionNotFound, match="nothing to roll back to"):
        store.rollback()


def test_another_process_sees_the_promotion(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    version = publish_small(store)
    store.promote(version)
    assert ModelStore(tmp_path).live() == version
    assert (tmp_path / "LIVE").read_text() == f"{version}\n"


def test_a_damaged_version_is_never_made_live(store: ModelStore) -> None:
    a, b, c = (publish_small(store, seed) for seed in range(3))
    store.promote(a)
    store.promote(b)
    damage(store, c)
    with pytest.raises(BundleRefused, match=r"search\.onnx"):
        store.promote(c)
    damage(store, a)
    with pytest.raises(BundleRefused, match=r"search\.onnx"):
        store.rollback()
    assert store.live() == b


@pytest.mark.parametrize("name", [*sorted(bundle_files()), "manifest.json"])
def test_one_flipped_bit_anywhere_keeps_a_version_from_becoming_live(tmp_path: Path, name: str) -> None:
    store = ModelStore(tmp_path)
    before, live, newer = (publish_small(store, seed) for seed in range(3))
    store.promote(before)
    store.promote(live)
    for version in (before, newer):
        damage(store, version, name)
    with pytest.raises(BundleRefused, match=re.escape(name)):
        store.promote(newer)
    with pytest.raises(BundleRefused, match=re.escape(name)):
        store.rollback()
    assert (store.live(), store.previous()) == (live, before)
    damage(store, before, name)  # the same bit again: whole as it was
    assert store.rollback() == before


def test_a_damaged_live_version_does_not_keep_another_one_from_replacing_it(store: ModelStore) -> None:
    a, b, c = (publish_small(store, seed) for seed in range(3))
    store.promote(a)
    store.promote(b)
    damage(store, b)
    assert store.rollback() == a
    assert store.promote(c) == a
    with pytest.raises(BundleRefused, match=r"search\.onnx"):
        store.promote(b)
    damage(store, c)
    with pytest.raises(BundleRefused, match=r"search\.onnx"):
        store.promote(c)  # live already, and still verified
    assert store.live() == c


@pytest.mark.parametrize("content", [b"", b"../../etc\n", b"v1\n\nv2\n", b"\xff\xfe", b"a\n" * 4096])
def test_a_damaged_live_file_is_an_error_with_a_fix(store: ModelStore, content: bytes) -> None:
    version = publish_small(store)
    store.root.write("LIVE", content)
    for act in (store.live, lambda: store.promote(version), lambda: store.gc(keep=0)):
        with pytest.raises(ModelStoreError, match=r"LIVE in .* is damaged") as caught:
            act()
        assert "delete LIVE" in caught.value.hint
    assert store.versions() == [version]


def test_the_environment_names_the_default_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(STORE_ENV, raising=False)
    assert default_store() == "./models"
    monkeypatch.setenv(STORE_ENV, str(tmp_path))
    assert ModelStore().root.path == str(tmp_path)


@pytest.mark.parametrize("url", ["nonsense://models", "hdfs-typo://x"])
def test_an_unknown_protocol_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be opened") as caught:
        ModelStore(url)
    assert "driver" in caught.value.hint


def test_a_store_that_cannot_be_listed_says_so(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    assert ModelStore(tmp_path / "models").versions() == []
    with pytest.raises(ModelStoreError, match="cannot create the model store"):
        publish_small(ModelStore(tmp_path / "models"))


def test_live_is_replaced_never_rewritten(tmp_path: Path) -> None:
    """A reader that opened LIVE before a promotion still sees all of the old content."""
    store = ModelStore(tmp_path)
    a, b = publish_small(store, 0), publish_small(store, 1)
    store.promote(a)
    with (tmp_path / "LIVE").open() as file:
        inode = os.fstat(file.fileno()).st_ino
        store.promote(b)
        assert file.read() == f"{a}\n"
    assert (tmp_path / "LIVE").stat().st_ino != inode
    assert fsspec.filesystem("file").cat_file(str(tmp_path / "LIVE")) == f"{b}\n{a}\n".encode()
    assert time.time() >= (tmp_path / "LIVE").stat().st_mtime


def test_a_store_that_exists_or_is_no_folder_is_not_mistyped(store: ModelStore, tmp_path: Path) -> None:
    publish_small(store)
    store.require()
    if store.root.local is None:
        ModelStore("memory://nothing-there").require()  # a bucket has no folders that could be missing
        return
    with pytest.raises(ModelStoreError, match=r"does not exist \(did you mean .*models\?\)"):
        ModelStore(tmp_path / "modles").require()


def test_a_collection_that_is_killed_leaves_no_half_version(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (publish_small(store, seed) for seed in range(2))
    store.promote(b)

    def killed(self: Folder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove_all", killed)
        with pytest.raises(KeyboardInterrupt):
            store.gc(keep=0)
    assert a not in store.versions(), "the seal goes first"
