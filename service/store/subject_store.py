"""Interface of the subjects of experiments: what each user or session did, so that each one counts once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple


class Exposure(NamedTuple):
    """An answer to a subject of an experiment."""

    experiment: str  # hash, as counters write it
    variant: int
    subject: str  # hash of the user or session, as in tokens
    home: str  # id of the user or session, which says in which partition of a cluster it is kept


class SubjectStore(ABC):
    """Subjects of experiments, and sums over them. What events say comes with them, as :attr:`Counts.mark`.

    See :mod:`model_store.events.marks`. In a cluster, a session's answers and its events may be kept in two places. So
    there an event counts its subject as exposed only if its user is who asked.
    """

    @abstractmethod
    async def expose(self, exposures: Sequence[Exposure]) -> None:
        """Note who got an answer. To repeat the call changes nothing.

        Raises:
            StoreReadOnly: The store is full, or about to be: subjects leave room for events.
        """

    @abstractmethod
    async def sums(self, experiment: str) -> dict[str, float]:
        """Return the sums over the subjects of an experiment by name; empty without any."""

    @abstractmethod
    async def delete(self, experiment: str, *, with_sums: bool) -> None:
        """Delete the subjects of an experiment, and if so the sums over them; on a full store as well."""
