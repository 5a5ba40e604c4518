"""Every key that a store may have is known, and goes to where the copy's service looks for it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from model_store.errors import ConfigError
from model_store.events.event import Event
from model_store.redis_copy.routes import Routes
from model_store.replication import redis_keys
from model_store.replication.redis_keys import ClusterKeys, Keys
from model_store.replication.redis_values import encode_event
from model_store.replication.snapshots import SNAPSHOT_FORMAT

PLAIN = Keys("etegrec")
SHOP = Keys("etegrec-shop")
CLUSTER = ClusterKeys("{etegrec}")
SHOP_CLUSTER = ClusterKeys("{etegrec-shop}")
USER = "user {7}:history:x"
OF_USERS: dict[str, Callable[[Keys], str]] = {
    "history": lambda keys: keys.history(USER),
    "shown": lambda keys: keys.shown("session", USER),
    "erased": lambda keys: keys.erased,
    "events": lambda keys: keys.events,
    "seen": lambda keys: keys.seen,
    "counts": lambda keys: keys.counts(3600),
    "counters": lambda keys: keys.counters("2026-01-05:codes"),
    "added": lambda keys: keys.counts_added("replica:1"),
    "sums": lambda keys: keys.subject_sums("ab12"),
    "subjects": lambda keys: keys.subjects("ab12"),
}
SHARED: dict[str, Callable[[Keys], str]] = {
    "imports": lambda keys: keys.imports,
    "counters": lambda keys: keys.counter_names,
    "attribution": lambda keys: keys.attribution_key,
    "changes": lambda keys: keys.changes,
    "items": lambda keys: keys.items,
    "placements": lambda keys: keys.placements,
    "experiments": lambda keys: keys.experiments,
    "canaries": lambda keys: keys.canaries,
    "catalogue": lambda keys: keys.chunk("20260105t000000z-ab", "0" * 32, 3),
}
LOCAL = [PLAIN.probe, PLAIN.applied, PLAIN.newest, PLAIN.copying, PLAIN.import_lock, PLAIN.lock("v")]


def test_all_documented_keys_are_known() -> None:
    table = (redis_keys.__doc__ or "").partition("    key (below")[2].partition("\n\n")[0]
    names = re.findall(r"^    (\S+)  +(?:list|hash|stream|zset|string) ", table, re.MULTILINE)
    assert len(names) > 20
    for name in names:
        example = name.replace("<snapshots>", f"catalogue:{SNAPSHOT_FORMAT}")
        example = example.replace("<seconds>", "60").replace("<day>", "2026-01-05")
        example = re.sub(r"<[a-z]+>", "x", example)
        assert Routes(PLAIN, SHOP).route(f"etegrec:{example}".encode()) is not None, name


@pytest.mark.parametrize(("source", "target"), [(PLAIN, SHOP), (CLUSTER, SHOP_CLUSTER)])
def test_under_another_namespace_every_key_keeps_its_name_and_its_partition(source: Keys, target: Keys) -> None:
    routes = Routes(source, target)
    for kind, key in SHARED.items():
        route = routes.route(key(source).encode())
        assert route is not None
        assert (route.kind, list(route.targets), route.copies) == (kind, [key(target)], 1)
    for kind, key in OF_USERS.items():
        for old, new in zip(source.parts, target.parts, strict=True):
            route = routes.route(key(old).encode())
            assert route is not None
            assert (route.kind, list(route.targets), route.copies) == (kind, [key(new)], 1)


def test_into_a_cluster_what_a_user_has_goes_to_the_users_partition() -> None:
    routes = Routes(PLAIN, SHOP_CLUSTER)
    own = SHOP_CLUSTER.of_user(USER)
    for key in (OF_USERS["history"], OF_USERS["shown"]):
        route = routes.route(key(PLAIN).encode())
        assert route is not None
        assert list(route.targets) == [key(own)]

    events = routes.route(PLAIN.events.encode())
    assert events is not None
    event = Event(event_id="e", user_id=USER, item_id="i", timestamp=1)
    assert events.targets_of(encode_event(event)) == [own.events]
    assert events.targets_of(b"no event") == [SHOP_CLUSTER.parts[0].events]
    assert (len(events.targets), events.copies) == (redis_keys.PARTITIONS, 1)

    for kind, key in SHARED.items():
        route = routes.route(key(PLAIN).encode())
        assert route is not None
        assert (route.kind, list(route.targets)) == (kind, [key(SHOP_CLUSTER)])


def test_into_a_cluster_sums_go_to_one_partition_items_of_counts_spread_and_tombstones_are_everywhere() -> None:
    routes = Routes(PLAIN, CLUSTER)
    found = {kind: routes.route(key(PLAIN).encode()) for kind, key in OF_USERS.items()}
    first = CLUSTER.parts[0]
    for kind in ("counters", "sums"):
        route = found[kind]
        assert route is not None
        assert list(route.targets) == [OF_USERS[kind](first)]

    counts = found["counts"]
    assert counts is not None
    chosen = [counts.targets_of(b"item %d" % number) for number in range(1000)]
    assert {key for each in chosen for key in each} == {part.counts(3600) for part in CLUSTER.parts}
    assert all(len(each) == 1 for each in chosen)

    erased = found["erased"]
    assert erased is not None
    assert list(erased.targets_of(b"name")) == [part.erased for part in CLUSTER.parts]
    assert erased.copies == redis_keys.PARTITIONS
    for kind in ("seen", "subjects"):
        route = found[kind]
        assert route is not None
        assert not route.targets


@pytest.mark.parametrize("key", LOCAL)
def test_locks_and_what_the_service_writes_anew_stay_behind(key: str) -> None:
    route = Routes(PLAIN, SHOP).route(key.encode())
    assert route is not None
    assert (route.kind, list(route.targets)) == ("left", [])


@pytest.mark.parametrize(
    "key", [b"etegrec:new things", b"etegrec:history:", b"etegrec:counters:today", b"other:events", b"etegrec:\xff"]
)
def test_other_keys_are_unknown(key: bytes) -> None:
    assert Routes(PLAIN, SHOP).route(key) is None


def test_partitions_are_not_joined() -> None:
    with pytest.raises(ConfigError, match="cannot be copied to a single server"):
        Routes(CLUSTER, PLAIN)
