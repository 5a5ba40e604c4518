"""Names of the Redis keys, as the service and training share them.

    key (below the prefix)                   type    expires             holds
    history:<user>                           list    by setting          newest interactions of a user, oldest first:
                                                                         see ``redis_values.encode_entry``
    shown:<kind>:<id>                        list    yes                 items that a user or a session was shown of
                                                                         late: eight bytes of time, item id
    erased                                   hash    no                  time of erasure by the tombstone of a user
    imports                                  hash    no                  by version, how many users of its histories
                                                                         were imported, and whether all
    imports:lock                             string  yes, renewed        token of the replica that imports histories
    events                                   stream  no, trimmed         field ``event``: see ``redis_values``
    events:seen                              zset    no, trimmed         event ids by the second they were recorded
    events:counts:<seconds>                  zset    no, trimmed         decayed counts of events, by item and half-life
    counters:<day>                           hash    no, deleted by age  what answers of that day led to, see
                                                                         :mod:`model_store.attribution.counters`
    counters:<day>:codes                     hash    no, deleted by age  the same by code, see
                                                                         :mod:`model_store.attribution.code_counters`
    counters:names                           hash    no                  names by their hash in those counters
    counters:added:<replica>                 string  yes                 number of the last counts that a replica added
    attribution:key                          string  no                  key that signs attributions, where no setting
                                                                         brings one
    changes                                  stream  no, trimmed         raw catalogue changes, id <revision>-<nonce>
    items                                    hash    no                  latest raw change by item id; a deletion has
                                                                         the payload of the put before it
    placements                               hash    no                  <revision> <JSON> by name, and the newest
                                                                         revision in the field of the empty name
    experiments                              hash    no                  the same of experiments
    canaries                                 hash    no                  the same of canaries that were rolled back
    experiments:<hash>:sums                  hash    no                  sums over the users and sessions of an
                                                                         experiment
    experiments:<hash>:subjects              hash    no, deleted by age  what each of them did, see
                                                                         :mod:`model_store.events.marks`
    <snapshots>:<version>:head               string  no                  a ``snapshots.SnapshotHead``
    <snapshots>:<version>:chunk:<id>:<n>     string  until published     at most 8 MiB of a packed snapshot
    <snapshots>:<version>:lock               string  yes, renewed        token of the replica that writes a snapshot
    probe                                    string  yes                 one byte, written to see if Redis takes writes
    applied                                  string  no                  settings that all keys follow
    copying                                  string  until it is done    where an unfinished copy of this store comes
                                                                         from, see :mod:`model_store.redis_copy`

``<snapshots>`` is ``catalogue:<format>``, see :data:`~model_store.replication.snapshots.SNAPSHOT_FORMAT`.

Redis runs with ``maxmemory-policy volatile-lru``: when memory is short, it drops keys that have an expiry, least
recently used first, and refuses writes once none is left. These keys can be dropped:

- Histories, if ``ETEGREC_USER_TTL_DAYS`` gives them an expiry: those of users who have been away for longest go first.
- Lists of what was shown. Items come again sooner than asked for then.
- Chunks of a snapshot that is being written or was replaced. The writer notices it when it publishes, a reader when it
  reads, and both try again.
- A lock. Its holder notices it when it publishes.

Ids of recorded events deliberately have no expiry. They are one sorted set, trimmed by age, so that a full Redis
refuses a write (503, the client repeats it) instead of forgetting that an event was recorded. Decayed counts have none
either: trends would be the first to go. They are at most 20,000 items each, and deleted if their half-life changes.

Scripts touch several keys at once, which a cluster allows within one slot only. There, what belongs to users is spread
over partitions, each in one slot: ``{etegrec:<partition>}:history:<user>``, and likewise ``shown``, ``erased``,
``events``, ``events:seen``, ``events:counts``, ``counters:<day>`` and ``experiments:<hash>``, which whoever reads them
adds up. All else is in the slot of ``{etegrec}``, see :class:`ClusterKeys`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from model_store.replication.redis_address import is_cluster
from model_store.replication.snapshots import SNAPSHOT_FORMAT

T = TypeVar("T")

DEFAULT_PREFIX = "etegrec"
"""Prefix of all keys without a namespace."""
PARTITIONS = 32
"""Partitions of the users in a cluster: several for each of a dozen primaries. To change it is to lose all users."""
SEEN_WINDOW_S = 2 * 24 * 3600
"""Seconds for which a repeated event id is recognised. Clients may repeat an event for a day."""
DRAIN_GROUP = "drain"
"""Consumer group through which retraining reads the event stream."""

_GLOB = re.compile(r"[*?\[\]\\]")
_ESCAPED = r"\\\g<0>"


def prefix_of(namespace: str) -> str:
    """Return the prefix of a shop's keys: no namespace's keys can begin like another's, or like those without one."""
    return f"{DEFAULT_PREFIX}-{namespace}" if namespace else DEFAULT_PREFIX


@dataclass(frozen=True)
class Keys:
    """Key names below one prefix; shops share a Redis by different prefixes, see :func:`prefix_of`."""

    prefix: str = DEFAULT_PREFIX

    @property
    def parts(self) -> Sequence[Keys]:
        """Keys of each partition of the users; they are one and the same without a cluster."""
        return (self,)

    def of_user(self, user_id: str) -> Keys:
        """Return the keys of the partition that a user belongs to."""
        return self

    def by_part(self, items: Iterable[T], user_of: Callable[[T], str]) -> dict[Keys, list[T]]:
        """Return things of users by the keys of the user's partition, each partition's in the given order."""
        found: dict[Keys, list[T]] = {}
        for item in items:
            found.setdefault(self.of_user(user_of(item)), []).append(item)
        return found

    def pattern(self, beginning: str) -> str:
        """Return the pattern of ``SCAN`` for the keys of all partitions that begin like this behind the prefix."""
        return f"{_GLOB.sub(_ESCAPED, f'{self.prefix}:{beginning}')}*"

    @property
    def patterns(self) -> Sequence[str]:
        """Patterns of ``SCAN`` for all keys, each of which fits one of them."""
        return (self.pattern(""),)

    @property
    def events(self) -> str:
        """Event stream."""
        return f"{self.prefix}:events"

    @property
    def seen(self) -> str:
        """Sorted set of recorded event ids."""
        return f"{self.prefix}:events:seen"

    @property
    def counts_prefix(self) -> str:
        """Beginning of the names of all decayed counts."""
        return f"{self.prefix}:events:counts:"

    def counts(self, half_life_s: int) -> str:
        """Return the sorted set of decayed counts; :mod:`service.store.decayed_counts` explains the scores."""
        return f"{self.counts_prefix}{half_life_s}"

    def counters(self, day: str) -> str:
        """Return the hash of the counters of a day, which is written like 2026-01-05."""
        return f"{self.prefix}:counters:{day}"

    @property
    def counter_names(self) -> str:
        """Hash of names by their hash in counters."""
        return f"{self.prefix}:counters:names"

    def counts_added(self, replica: str) -> str:
        """Return the number of the last counts that a replica added."""
        return f"{self.prefix}:counters:added:{replica}"

    @property
    def attribution_key(self) -> str:
        """Key that signs attributions."""
        return f"{self.prefix}:attribution:key"

    def history(self, user_id: str) -> str:
        """Return the list of a user's interactions."""
        return f"{self.prefix}:history:{user_id}"

    def shown(self, kind: str, subject_id: str) -> str:
        """Return the list of what a user or a session was shown; the kind says which of the two."""
        return f"{self.prefix}:shown:{kind}:{subject_id}"

    @property
    def placements(self) -> str:
        """Hash of all placements."""
        return f"{self.prefix}:placements"

    @property
    def experiments(self) -> str:
        """Hash of all experiments."""
        return f"{self.prefix}:experiments"

    @property
    def canaries(self) -> str:
        """Hash of the canaries that were rolled back."""
        return f"{self.prefix}:canaries"

    def subject_sums(self, experiment: str) -> str:
        """Return the hash of the sums over users and sessions of an experiment, which its hash stands for."""
        return f"{self.prefix}:experiments:{experiment}:sums"

    def subjects(self, experiment: str) -> str:
        """Return the hash of what each user and session of an experiment did."""
        return f"{self.prefix}:experiments:{experiment}:subjects"

    @property
    def erased(self) -> str:
        """Hash of the tombstones of erased users."""
        return f"{self.prefix}:erased"

    @property
    def imports(self) -> str:
        """Hash of the progress of importing the histories of each version."""
        return f"{self.prefix}:imports"

    @property
    def import_lock(self) -> str:
        """Return the lock of the replica that imports histories."""
        return f"{self.prefix}:imports:lock"

    @property
    def _snapshots(self) -> str:
        """Prefix of snapshots in this format. Two releases that run side by side must not replace each other's."""
        return f"{self.prefix}:catalogue:{SNAPSHOT_FORMAT}"

    def head(self, version: str) -> str:
        """Return the pointer to the newest complete snapshot."""
        return f"{self._snapshots}:{version}:head"

    def chunk(self, version: str, snapshot_id: str, number: int) -> str:
        """Return one piece of a packed snapshot."""
        return f"{self._snapshots}:{version}:chunk:{snapshot_id}:{number}"

    @property
    def changes(self) -> str:
        """Stream of catalogue changes, of all versions."""
        return f"{self.prefix}:changes"

    @property
    def items(self) -> str:
        """Hash of the latest change of every item that ever changed."""
        return f"{self.prefix}:items"

    def lock(self, version: str) -> str:
        """Return the lock of the snapshot writer."""
        return f"{self._snapshots}:{version}:lock"

    @property
    def newest(self) -> str:
        """Hash in which the times of newest events were kept before; it is deleted."""
        return f"{self.prefix}:newest"

    @property
    def probe(self) -> str:
        """Key that is written to see whether Redis takes writes."""
        return f"{self.prefix}:probe"

    @property
    def applied(self) -> str:
        """Settings that were applied to all keys, so that a start need not go through them."""
        return f"{self.prefix}:applied"

    @property
    def copying(self) -> str:
        """Place that an unfinished copy of a store comes from."""
        return f"{self.prefix}:copying"


@dataclass(frozen=True)
class ClusterKeys(Keys):
    """Key names in a cluster: the users' in :data:`PARTITIONS` slots, all others in the slot of the prefix.

    A user's history, events, event ids, counts and tombstone change together, so they are in one partition.

    Args:
        prefix: Prefix of all keys, with a hash tag around it; see :func:`keys_at`.
    """

    @cached_property
    def parts(self) -> Sequence[Keys]:
        """Keys of each partition of the users."""
        tag = self.prefix.strip("{}")
        return tuple(Keys(f"{{{tag}:{number}}}") for number in range(PARTITIONS))

    def of_user(self, user_id: str) -> Keys:
        """Return the keys of the partition that a user belongs to: the same in every process and release."""
        return self.parts[zlib.crc32(user_id.encode()) % PARTITIONS]

    def pattern(self, beginning: str) -> str:
        """Return the pattern of ``SCAN`` for the keys of all partitions that begin like this behind the prefix."""
        tag = self.prefix.strip("{}")
        return f"{{{_GLOB.sub(_ESCAPED, tag)}:*}}:{_GLOB.sub(_ESCAPED, beginning)}*"

    @property
    def patterns(self) -> Sequence[str]:
        """Patterns of ``SCAN`` for all keys, each of which fits one of them."""
        return (super().pattern(""), self.pattern(""))


def keys_at(url: str, prefix: str) -> Keys:
    """Return the names of the keys in the Redis at a URL."""
    return ClusterKeys(f"{{{prefix}}}") if is_cluster(url) else Keys(prefix)
