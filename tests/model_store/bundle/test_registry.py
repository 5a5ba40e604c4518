from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from model_store.bundle.registry import STORE_ENV, ModelStore, default_store
from model_store.errors import BundleRefused, ConfigError, LockHeld, ModelStoreError, VersionNotFound
from tests.support.bundles import bundle_files, publish_small


@pytest.fixture(params=["path", "file URL", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModelStore]:
    """The same store on each kind of file system."""
    urls = {
        "path": str(tmp_path / "models"),
        "file URL": f"file://{tmp_path}/models",
        "memory": f"memory://models-{uuid.uuid4().hex}",
    }
    opened = ModelStore(urls[request.param])
    yield opened
    if request.param == "memory":
        opened.root.remove_all()


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

    def killed(_: list[str]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "_write_history", killed)
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


def test_gc_keeps_what_serving_may_need(store: ModelStore) -> None:
    versions = [publish_small(store, seed) for seed in range(7)]
    for version in versions[:3]:
        store.promote(version)
    plan = store.gc(keep=1, pinned=[versions[4]], dry_run=True)
    assert store.versions() == versions, "a dry run removes nothing"
    done = store.gc(keep=1, pinned=[versions[4]])
    assert done == plan
    assert done.removed == (versions[0], versions[3], versions[5])
    assert done.kept == tuple(store.versions()) == (versions[1], versions[2], versions[4], versions[6])
    assert store.rollback() == versions[1]
    with pytest.raises(VersionNotFound, match="nothing to roll back to"):
        store.rollback()  # the one before was collected


def test_gc_refuses_pins_that_do_not_exist_and_negative_counts(store: ModelStore) -> None:
    version = publish_small(store)
    with pytest.raises(VersionNotFound, match="pinned version typo"):
        store.gc(keep=0, pinned=["typo"])
    with pytest.raises(ConfigError, match="keep is -1"):
        store.gc(keep=-1)
    assert store.versions() == [version]


@pytest.mark.parametrize("keep", range(5))
def test_gc_keeps_as_many_as_asked(store: ModelStore, keep: int) -> None:
    versions = [publish_small(store, seed) for seed in range(3)]
    store.gc(keep=keep)
    assert store.versions() == versions[max(0, 3 - keep) :]


def test_gc_removes_old_leftovers_and_nothing_else(store: ModelStore) -> None:
    version = publish_small(store)
    unsealed = "20260101t000000z-00000000"
    for name in (f".staging-{unsealed}", unsealed, "events", "notes"):
        store.root.child(name).write("part.bin", b"data")
    assert store.gc().leftovers == (), "a publisher may still be at work on them"
    assert store.gc(leftovers_older_than_s=0.0).leftovers == (f".staging-{unsealed}", unsealed)
    assert {entry.name for entry in store.root.entries() if entry.kind == "folder"} == {"events", "notes", version}


def test_a_half_removed_version_is_gone_and_collected_later(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    version = publish_small(store)
    store.root.child(version).remove("manifest.json")  # a collector killed right after its first removal
    assert store.versions() == []
    with pytest.raises(VersionNotFound):
        store.bundle(version)
    assert store.gc(leftovers_older_than_s=0.0).leftovers == (version,)
    assert publish_small(store) == version


def test_writers_wait_for_each_other_then_give_up(tmp_path: Path) -> None:
    holder, other = ModelStore(tmp_path), ModelStore(tmp_path, lock_timeout_s=0.05)
    version = publish_small(holder)
    held: list[Callable[[], object]] = [
        lambda: other.promote(version),
        lambda: other.gc(),
        lambda: publish_small(other, 1),
    ]
    with holder.lock():
        holder.promote(version)  # nests in one thread
        for act in (*held, other.rollback):
            with pytest.raises(LockHeld, match="another process") as caught:
                act()
            assert caught.value.exit_code == 7
        assert other.live() == version, "readers need no lock"
    assert other.promote(version) == version


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    version = publish_small(ModelStore(tmp_path))
    code = (
        "import os; from model_store.bundle.registry import ModelStore\n"
        f"with ModelStore({str(tmp_path)!r}).lock(): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert ModelStore(tmp_path, lock_timeout_s=1.0).promote(version) is None


def test_concurrent_promote_gc_and_readers_never_lose_the_live_version(tmp_path: Path) -> None:
    ModelStore(tmp_path).promote(publish_small(ModelStore(tmp_path), 0))
    stop = threading.Event()

    def read() -> int:
        loaded = 0
        while not stop.is_set():
            live = ModelStore(tmp_path).live()
            try:
                ModelStore(tmp_path).bundle(live).verify()
                loaded += 1
            except ModelStoreError:  # only a reader that is late by two promotions may find its version collected
                assert live not in (ModelStore(tmp_path).live(), ModelStore(tmp_path).previous())
        return loaded

    def promote() -> str:
        for seed in range(1, 6):
            version = publish_small(ModelStore(tmp_path), seed)
            ModelStore(tmp_path).promote(version)
        return version

    def collect() -> None:
        while not stop.is_set():
            ModelStore(tmp_path).gc(keep=1)

    with ThreadPoolExecutor(4) as pool:
        reader, *collectors = pool.submit(read), pool.submit(collect), pool.submit(collect)
        try:
            newest = pool.submit(promote).result()
        finally:
            stop.set()
        assert reader.result() > 0
        for collector in collectors:
            collector.result()
    store = ModelStore(tmp_path)
    assert store.live() == newest
    store.gc(keep=0)
    assert store.versions() == [store.previous(), newest]


class StoreLife(RuleBasedStateMachine):
    """Any order of publish, promote, rollback and gc against a plain list as the model of LIVE."""

    @initialize()
    def start(self) -> None:
        self.store = ModelStore(f"memory://life-{uuid.uuid4().hex}")
        self.history: list[str] = []
        self.withheld: set[str] = set()
        self.published = 0

    @rule()
    @precondition(lambda self: self.published < 6)
    def publish(self) -> None:
        publish_small(self.store, self.published)
        self.published += 1

    @rule(pick=st.integers(0, 5))
    @precondition(lambda self: self.store.versions())
    def promote(self, pick: int) -> None:
        versions = self.store.versions()
        chosen = versions[pick % len(versions)]
        self.store.promote(chosen)
        self.withheld.discard(chosen)
        if self.history[:1] != [chosen]:
            self.history.insert(0, chosen)

    @rule()
    def rollback(self) -> None:
        usable = set(self.store.versions()) - self.withheld - set(self.history[:1])
        later = [at for at, one in enumerate(self.history) if at and one in usable]
        if later:
            self.withheld.add(self.history[0])
            self.history = self.history[later[0] :]
            assert self.store.rollback() == self.history[0]
        else:
            with pytest.raises(VersionNotFound):
                self.store.rollback()

    @rule(keep=st.integers(0, 3))
    def gc(self, keep: int) -> None:
        before, target = self.store.versions(), self.store.previous()
        self.store.gc(keep=keep)
        must_stay = {*self.history[:1], target, *before[len(before) - min(keep, len(before)) :]} - {None}
        assert set(self.store.versions()) == must_stay

    @invariant()
    def the_live_version_loads(self) -> None:
        assert self.store.live() == next(iter(self.history), None)
        assert set(self.store.withheld()) == self.withheld
        if self.history:
            self.store.bundle().verify()

    def teardown(self) -> None:
        self.store.root.remove_all()


TestStoreLife = StoreLife.TestCase
TestStoreLife.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


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
