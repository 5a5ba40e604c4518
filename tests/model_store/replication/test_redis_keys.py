"""Names of keys: those of different shops, versions and users differ, and a cluster keeps a user's together."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from redis.crc import key_slot

from model_store.replication import redis_keys


def test_keys_of_different_prefixes_versions_and_users_differ() -> None:
    keys = redis_keys.Keys("p")
    names = [keys.events, keys.seen, keys.history("u"), keys.head("v"), keys.head("w"), keys.changes, keys.items]
    names += [keys.lock("v"), keys.chunk("v", "s", 0), keys.chunk("v", "s", 1), keys.attribution_key]
    names += [keys.counters("2026-01-05"), keys.counter_names, keys.counts_added("r")]
    assert len(set(names)) == len(names)
    assert all(name.startswith("p:") for name in names)


def test_no_shop_has_a_key_of_another() -> None:
    shops = [redis_keys.Keys(redis_keys.prefix_of(name)) for name in ("", "a", "a-b", "history", "events")]
    names = [name for keys in shops for name in (keys.events, keys.history("a:events"), keys.history("-a:events"))]
    assert len(set(names)) == len(names)
    assert shops[0].prefix == "etegrec"
    patterns = [f"{keys.prefix}:" for keys in shops]
    assert all(sum(name.startswith(pattern) for pattern in patterns) == 1 for name in names)


def slots_of(names: list[str]) -> set[int]:
    return {key_slot(name.encode()) for name in names}


def test_in_a_cluster_all_of_a_user_is_in_one_slot_and_users_spread() -> None:
    keys = redis_keys.keys_at("redis+cluster://host", "etegrec-shop")
    every = set()
    for user in (f"user {number} {{x}}" for number in range(1000)):
        own = keys.of_user(user)
        slots = slots_of(
            [own.history(user), own.events, own.seen, own.erased, own.counts(60), own.counters("2026-01-05")]
        )
        assert len(slots) == 1
        every |= slots
    assert len(every) == len(keys.parts) == redis_keys.PARTITIONS
    thirds = {slot * 3 // 16_384 for slot in every}
    assert thirds == {0, 1, 2}


def test_in_a_cluster_all_of_the_catalogue_is_in_one_slot() -> None:
    keys = redis_keys.keys_at("redis+cluster://host", "etegrec")
    names = [keys.changes, keys.items, keys.head("v"), keys.lock("v"), keys.chunk("v", "s", 0), keys.imports]
    assert len(slots_of(names)) == 1
    assert names[0] == "{etegrec}:changes"


def test_the_partition_of_a_user_never_changes() -> None:
    keys = redis_keys.keys_at("redis+cluster://host", "etegrec")
    assert keys.of_user("ann").history("ann") == "{etegrec:19}:history:ann"
    assert keys.of_user("é").history("é") == "{etegrec:30}:history:é"


def test_without_a_cluster_keys_are_those_of_earlier_releases() -> None:
    keys = redis_keys.keys_at("redis://host", "etegrec")
    assert keys.of_user("ann").history("ann") == "etegrec:history:ann"
    assert list(keys.parts) == [keys]


@pytest.mark.parametrize("url", ["redis://host", "redis+cluster://host"])
def test_the_pattern_of_a_scan_finds_the_keys_of_one_shop_only(url: str) -> None:
    keys = redis_keys.keys_at(url, "etegrec-a")
    others = [redis_keys.keys_at(url, prefix) for prefix in ("etegrec", "etegrec-ab", "etegrec-b")]
    pattern = keys.pattern("history:")
    assert all(fnmatchcase(keys.of_user(user).history(user), pattern) for user in ("u", "v:w", "*"))
    assert not any(fnmatchcase(other.of_user("u").history("u"), pattern) for other in others)
    assert not fnmatchcase(keys.parts[0].events, pattern)
