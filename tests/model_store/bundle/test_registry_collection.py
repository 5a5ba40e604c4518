"""Collection of versions that nobody needs any more: what goes, and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.registry import ModelStore
from model_store.errors import ConfigError, VersionNotFound
from tests.support.bundles import publish_small


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
