"""Aliases: versions beside the live one are named, verified, kept, and let go when their trial is over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_store.bundle.aliases import ALIASES, ALIASES_LIMIT, check_alias_name
from model_store.bundle.registry import ModelStore
from model_store.errors import BundleRefused, ConfigError, ModelStoreError, VersionNotFound
from tests.support.bundles import publish_small


def published(store: ModelStore, count: int = 3) -> list[str]:
    """Publish versions and promote the first."""
    versions = [publish_small(store, seed) for seed in range(count)]
    store.promote(versions[0])
    return versions


def test_an_alias_is_set_replaced_and_removed(store: ModelStore) -> None:
    live, first, second = published(store)
    assert store.aliases() == {}
    given = store.set_alias("candidate", first, 0.25)
    shadow = store.set_alias("shadow", first)
    assert store.aliases() == {"candidate": given, "shadow": shadow}
    assert (given.version, given.share, shadow.share) == (first, 0.25, 0.05)
    assert store.live() == live

    again = store.set_alias("candidate", second, 0.5)
    assert store.aliases()["candidate"] == again
    assert again.key != given.key
    assert store.remove_alias("candidate") == again
    assert store.remove_alias("candidate") is None
    assert store.aliases() == {"shadow": shadow}


def test_the_same_version_again_is_another_trial(store: ModelStore) -> None:
    _, first, _ = published(store)
    assert store.set_alias("candidate", first).key != store.set_alias("candidate", first).key


def test_what_cannot_have_an_alias_is_refused_and_changes_nothing(store: ModelStore) -> None:
    live, first, damaged = published(store)
    kept = store.set_alias("candidate", first)
    store.root.child(damaged).write("golden.json", b"{}")
    with pytest.raises(BundleRefused):
        store.set_alias("candidate", damaged)
    with pytest.raises(VersionNotFound):
        store.set_alias("candidate", "20260101t000000z-00000000")
    with pytest.raises(ConfigError, match="is live"):
        store.set_alias("shadow", live)
    for share in (-0.01, 0.51, float("nan")):
        with pytest.raises(ConfigError, match=r"must be between 0 and 0\.5"):
            store.set_alias("candidate", first, share)
    with pytest.raises(ConfigError, match="must be between 0 and 1"):
        store.set_alias("shadow", first, 1.01)
    assert store.aliases() == {"candidate": kept}


@pytest.mark.parametrize(("name", "hint"), [("live", "promote"), ("canary", "candidate, shadow")])
def test_a_wrong_name_is_told_the_right_ones(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_alias_name(name)
    assert hint in refused.value.hint


def test_a_promoted_version_loses_its_aliases_and_others_keep_theirs(store: ModelStore) -> None:
    live, first, second = published(store)
    store.set_alias("candidate", first)
    shadow = store.set_alias("shadow", second)
    store.promote(first)
    assert store.aliases() == {"shadow": shadow}
    store.set_alias("candidate", live)
    assert store.rollback() == live
    assert store.aliases() == {"shadow": shadow}


def test_versions_with_an_alias_are_never_collected(store: ModelStore) -> None:
    versions = published(store, 5)
    store.set_alias("candidate", versions[1])
    store.set_alias("shadow", versions[2])
    assert store.gc(keep=1).removed == (versions[3],)
    store.remove_alias("shadow")
    assert store.gc(keep=1).removed == (versions[2],)


def test_a_canary_that_failed_is_withheld_and_another_one_is_left_alone(store: ModelStore) -> None:
    live, first, second = published(store)
    old = store.set_alias("candidate", first)
    new = store.set_alias("candidate", second)
    assert not store.end_canary(old, "too slow")
    assert (store.aliases(), store.withheld()) == ({"candidate": new}, {})

    assert store.end_canary(new, "it answers too slowly")
    assert store.aliases() == {}
    assert store.live() == live
    assert "rolled back on" in store.withheld()[second].words
    assert "(it answers too slowly)" in store.withheld()[second].words


@pytest.mark.parametrize(
    "content",
    [
        b"no JSON",
        b"x" * (ALIASES_LIMIT + 1),
        json.dumps({"format": "etegrec-aliases-v2", "aliases": {}}).encode(),
        json.dumps({"format": "etegrec-aliases-v1", "aliases": {"canary": {}}}).encode(),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_removed(tmp_path: Path, content: bytes) -> None:
    store = ModelStore(tmp_path)
    published(store)
    (tmp_path / ALIASES).write_bytes(content)
    with pytest.raises(ModelStoreError, match=r"aliases\.json in .* is damaged"):
        store.aliases()
    with pytest.raises(ModelStoreError, match="is damaged"):
        store.gc(keep=0)
    assert len(store.versions()) == 3
