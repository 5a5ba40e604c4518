"""Where each key of a store belongs in another Redis, which has another prefix or spreads users over partitions."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from model_store.errors import ConfigError, StoreCorrupt
from model_store.replication import redis_values
from model_store.replication.redis_keys import Keys

_LOCAL = re.compile(r"probe|applied|newest|copying|imports:lock|catalogue:\d+:.+:lock")
"""Keys that only matter where they are: locks, and what the service writes anew when it starts."""

_SHARED = re.compile(
    r"imports|counters:names|attribution:key|changes|items|placements|experiments|canaries"
    r"|catalogue:\d+:.+:(?:head|chunk:.+)"
)
"""Keys that a store has once, however many partitions it has."""


class Route(NamedTuple):
    """Where one key belongs."""

    kind: str  # what it holds, for the report
    targets: Sequence[str]  # keys of the copy; none: it stays behind
    choose: Callable[[bytes], str] | None = None
    """Returns the one of ``targets`` that an entry belongs to: a member of a set, an event of a stream. ``None``: all
    entries belong to each of them."""

    @property
    def copies(self) -> int:
        """Number of keys that each entry is copied to."""
        return 1 if self.choose else len(self.targets)

    def targets_of(self, entry: bytes) -> Sequence[str]:
        """Return the keys that an entry belongs to."""
        return [self.choose(entry)] if self.choose else self.targets


class Routes:
    """Routes of all keys of a store.

    Args:
        source: Names of its keys.
        target: Names of the keys of the copy.

    Raises:
        ConfigError: The copy would have to join partitions.
    """

    def __init__(self, source: Keys, target: Keys) -> None:
        if len(source.parts) > len(target.parts):
            raise ConfigError(
                "a cluster cannot be copied to a single server: counts of its partitions would have to be joined",
                "name a cluster as the target",
            )
        self._target = target
        self._is_split = len(source.parts) < len(target.parts)
        self._places = {source.prefix: target}
        if not self._is_split:
            self._places |= {old.prefix: new for old, new in zip(source.parts, target.parts, strict=True)}
        self._source_prefix = source.prefix

    def route(self, key: bytes) -> Route | None:
        """Return where a key belongs; ``None`` if this release does not know it."""
        prefix, name = self._cut(key)
        if name is None:
            return None
        if _LOCAL.fullmatch(name):
            return Route("left", ())
        if _SHARED.fullmatch(name) and prefix == self._source_prefix:
            return Route(name.partition(":")[0], [f"{self._target.prefix}:{name}"])

        kind = _kind_of_users(name)
        if kind is None:
            return None
        if not self._is_split:
            return Route(kind, [f"{self._places[prefix].prefix}:{name}"])
        return self._spread(kind, name)

    def _cut(self, key: bytes) -> tuple[str, str | None]:
        """Return the prefix of a key and its name behind that, ``None`` if no prefix of the store fits."""
        try:
            text = key.decode()
        except UnicodeDecodeError:
            return "", None
        for prefix in (text[: text.find("}") + 1], self._source_prefix):
            if prefix in self._places and text.startswith(f"{prefix}:"):
                return prefix, text[len(prefix) + 1 :]
        return "", None

    def _spread(self, kind: str, name: str) -> Route:
        """Return the route of a key of users from a single server to the partitions of a cluster."""
        parts = self._target.parts
        match kind:
            case "history":
                user_id = name.partition(":")[2]
                return Route(kind, [self._target.of_user(user_id).history(user_id)])
            case "shown":
                _, subject_kind, subject_id = name.split(":", 2)
                return Route(kind, [self._target.of_user(subject_id).shown(subject_kind, subject_id)])
            case "erased":  # names are hashes: nobody can tell which partition a user was in
                return Route(kind, [part.erased for part in parts])
            case "events":
                return Route(kind, [part.events for part in parts], lambda raw: self._of_event(raw).events)
            case "counts":  # readers add up those of all partitions, each of which keeps only its share of the items
                names = [f"{part.prefix}:{name}" for part in parts]
                return Route(kind, names, lambda item: names[zlib.crc32(item) % len(names)])
            case "added":
                replica = name.rpartition(":")[2].encode()
                return Route(kind, [f"{parts[zlib.crc32(replica) % len(parts)].prefix}:{name}"])
            case "counters" | "sums":  # readers add up those of all partitions
                return Route(kind, [f"{parts[0].prefix}:{name}"])
            case _:  # recorded ids and subjects do not say in which partition they would be
                return Route("left", ())

    def _of_event(self, raw: bytes) -> Keys:
        """Return the partition of an event; the first one's for what does not decode, which retraining reports."""
        try:
            return self._target.of_user(redis_values.decode_event(raw).user_id)
        except StoreCorrupt:
            return self._target.parts[0]


_USERS = {
    "history": re.compile(r"history:.+", re.DOTALL),
    "shown": re.compile(r"shown:[^:]+:.+", re.DOTALL),
    "erased": re.compile(r"erased"),
    "events": re.compile(r"events"),
    "seen": re.compile(r"events:seen"),
    "counts": re.compile(r"events:counts:\d+"),
    "added": re.compile(r"counters:added:.+"),
    "counters": re.compile(r"counters:\d{4}-\d\d-\d\d(?::codes)?"),
    "sums": re.compile(r"experiments:[^:]+:sums"),
    "subjects": re.compile(r"experiments:[^:]+:subjects"),
}


def _kind_of_users(name: str) -> str | None:
    """Return what a key that each partition has holds; ``None`` if it is none."""
    return next((kind for kind, pattern in _USERS.items() if pattern.fullmatch(name)), None)
