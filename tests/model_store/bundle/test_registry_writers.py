"""Several writers and readers of one store: whatever they do, in any order, the live version loads."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from model_store.bundle.registry import ModelStore
from model_store.errors import LockHeld, ModelStoreError, VersionNotFound
from tests.support.bundles import publish_small


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
