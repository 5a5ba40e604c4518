"""A cache of the model's answers for requests that repeat: a page opened again, a user who did nothing new.

An answer is a function of model version, catalogue revision, history, rules and what the request asks for. All of them
are in the key, so a cached answer is never wrong; it expires only to free its place.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from weakref import ref

from model_store.catalogue.catalogue import Catalogue
from service.engines.base import SearchRequest, SearchResult
from service.ranking.filters import RuleKey
from service.ranking.keys import RankingKey

LARGEST_KEY = 8192
"""Size of a key in bytes, roughly, above which an answer is not cached: filters may name 10,000 items, and such
requests rarely repeat."""

_NAME_BYTES = 100  # of a category or an item id in a rule, with what Python adds


class AnswerKey(NamedTuple):
    """Identity of a search in one catalogue: equal keys have equal answers."""

    history: bytes  # catalogue rows, oldest first, no more than the model reads
    excluded: bytes  # catalogue rows
    rule: RuleKey
    ranking: RankingKey
    searched: int  # answers of the search: more than k if chance chooses among them
    k: int

    @classmethod
    def of(cls, request: SearchRequest, rule: RuleKey, ranking: RankingKey, max_history: int, k: int) -> AnswerKey:
        """Return the key of a search at the model's full beam width, for an answer of k items."""
        history = request.history[-max_history:].tobytes()
        excluded = request.excluded.tobytes()
        return cls(history, excluded, rule, ranking, request.k, k)

    @property
    def size(self) -> int:
        """Size in bytes, roughly."""
        names = self.rule.name_count + self.ranking.name_count
        return len(self.history) + len(self.excluded) + _NAME_BYTES * names


class ResultCache:
    """The most recently used answers about one catalogue. Used from one event loop.

    A catalogue object stands for its version and revision: with another one the cache begins anew. It is not kept alive
    here: the model of an alias is freed although nobody asks it again.

    Args:
        entries: Largest number of cached answers; 0 turns the cache off.
        ttl_s: Seconds for which a cached answer is served.
        clock: Monotonic seconds.
    """

    def __init__(self, entries: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries = entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._catalogue: ref[Catalogue] | None = None
        # Each answer with the time at which it expires.
        self._cached: OrderedDict[AnswerKey, tuple[float, SearchResult]] = OrderedDict()

    @property
    def is_on(self) -> bool:
        """True if answers are cached at all."""
        return self._entries > 0

    def __len__(self) -> int:
        return len(self._cached)

    def find(self, catalogue: Catalogue, key: AnswerKey) -> SearchResult | None:
        """Return the cached answer, if there is one and it has not expired."""
        if not self._is_about(catalogue):
            self._catalogue = ref(catalogue)
            self._cached.clear()

        expires, found = self._cached.get(key, (0.0, None))
        if found is None:
            return None
        if expires <= self._clock():
            del self._cached[key]
            return None

        self._cached.move_to_end(key)
        return found

    def keep(self, catalogue: Catalogue, key: AnswerKey, found: SearchResult) -> None:
        """Cache an answer, unless the catalogue has changed since the request came, or the key is a large one."""
        if not self.is_on or not self._is_about(catalogue) or key.size > LARGEST_KEY:
            return

        self._cached[key] = (self._clock() + self._ttl_s, found)
        self._cached.move_to_end(key)
        if len(self._cached) > self._entries:
            self._cached.popitem(last=False)

    def _is_about(self, catalogue: Catalogue) -> bool:
        return self._catalogue is not None and self._catalogue() is catalogue
