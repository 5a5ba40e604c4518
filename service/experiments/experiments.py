"""Experiments of this replica: who takes part, and which variant each user or session gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from model_store.attribution.names import hash_of, label_of
from model_store.attribution.token import subject_of
from model_store.experiments.assignment import Assignment, choose_variant, is_included
from service.errors import ExperimentConflict, ExperimentsNotRead, NoSuchExperiment
from service.schemas.experiments import ONE_EXPERIMENT, Experiment, VariantModel
from service.schemas.rules import Rules
from service.store.client import StoreClient
from service.store.document_store import DocumentStore, OthersChanged
from service.store.documents import Documents, Named

_ATTEMPTS = 10
"""Times that a write is checked anew because another experiment was written meanwhile."""

_KEPT = ("variants", "traffic", "goal", "starts")
"""Fields that an experiment keeps once it has begun."""


class Chosen(NamedTuple):
    """The variant of who asks.

    Attributes:
        rules: Its rules.
        assignment: Who asks in it; ``None`` if nobody is named: then the control's rules hold uncounted.
        model: Its model; ``None`` if the experiment leaves that to others.
    """

    rules: Rules
    assignment: Assignment | None
    model: VariantModel | None


class Experiments(Documents[Experiment]):
    """All experiments; see :class:`~service.store.documents.Documents`.

    Args:
        store_client: Client of the store.
        wait_s: Longest wait for a read that a request needs.
        clock: Returns Unix seconds.
    """

    kind = "experiment"

    def __init__(self, store_client: StoreClient, wait_s: float, clock: Callable[[], float] = time.time) -> None:
        super().__init__(store_client, ONE_EXPERIMENT, wait_s)
        self._clock = clock

    @property
    def _documents(self) -> DocumentStore:
        return self._store_client.store.experiments

    def not_read(self) -> ExperimentsNotRead:
        """Return the error for a store that could not be asked since the start."""
        return ExperimentsNotRead()

    def not_found(self, name: str) -> NoSuchExperiment:
        """Return the error for a name that no experiment has."""
        return NoSuchExperiment(name)

    def conflict(self, reason: str) -> ExperimentConflict:
        """Return the error for a write that what is stored does not allow."""
        return ExperimentConflict(reason)

    def choose(self, name: str, user_id: str | None, session_id: str | None) -> Chosen | None:
        """Return the variant of who asks; ``None`` if there is no such experiment, or it does not run for them.

        Nothing is asked or stored: all replicas agree, also while the store is away.
        """
        found = self.known(name)
        if found is None or not found.content.runs(self._clock()):
            return None

        variants = found.content.variants
        subject = subject_of(user_id, session_id)
        if not subject:
            return Chosen(variants[0].rules, None, found.content.model_of(0))
        if not is_included(found.content.traffic_of(name), subject):
            return None

        key = key_of(found)
        place = choose_variant(key, [variant.share for variant in variants], subject)
        assignment = Assignment(name, key, place, variants[place].name)
        return Chosen(variants[place].rules, assignment, found.content.model_of(place))

    async def put(self, name: str, experiment: Experiment, expected: int | None) -> Named[Experiment]:
        """Store an experiment; this replica uses it when this returns. Without ``starts`` it begins now.

        Args:
            name: Its name.
            experiment: The experiment.
            expected: Revision of the experiment that it replaces, 0 for none; ``None``: whichever.

        Raises:
            InvalidFields: It is too large.
            ExperimentConflict: Another revision is stored, it has begun and would change, its traffic overlaps that of
                another one, or there are too many.
            ExperimentsNotRead: The store could not be asked.
            StoreError: It could not be stored.
        """
        for _ in range(_ATTEMPTS):
            await self.read()
            revision = self.revision
            checked = self._checked(name, experiment)
            try:
                return await self._put(name, checked, checked.payload(), expected, checked_at=revision)
            except OthersChanged:
                continue
        raise self.conflict("other experiments are being written: repeat the write")

    async def check_deletion(self, name: str, *, force: bool) -> Named[Experiment]:
        """Return the experiment if it may be deleted.

        Raises:
            ExperimentConflict: It runs.
            NoSuchExperiment: There is none of this name.
        """
        found = await self.find(name)
        if found.content.runs(self._clock()) and not force:
            raise self.conflict(f"the experiment {name} runs: end it with `ends` first, or delete it with `force=true`")
        return found

    def _checked(self, name: str, experiment: Experiment) -> Experiment:
        """Return the experiment with its start, if it fits what is stored."""
        now = int(self._clock())
        found = self.known(name)
        has_begun = found is not None and (found.content.starts or 0) <= now
        starts = experiment.starts
        if starts is None:
            starts = found.content.starts if found is not None and has_begun else now
        experiment = experiment.model_copy(update={"starts": starts})

        if found is not None and has_begun:
            changed = [each for each in _KEPT if getattr(experiment, each) != getattr(found.content, each)]
            if found.content.ends is not None and found.content.ends <= now and experiment.ends != found.content.ends:
                changed.append("ends")  # what its users and sessions did is not kept for good
            if changed:
                raise self.conflict(
                    f"the experiment {name} has begun and keeps its {', '.join(changed)}: make a new one; only"
                    " `description` may change, and `ends` until it has ended"
                )
        if experiment.ends is not None and experiment.ends <= (starts or 0):
            raise self.conflict(f"the experiment {name} would end before it starts: give a later `ends`")
        self._check_traffic(name, experiment, now)
        return experiment

    def _check_traffic(self, name: str, experiment: Experiment, now: int) -> None:
        traffic = experiment.traffic_of(name)
        for other in self.all():
            if other.name == name or not other.content.traffic_of(other.name).overlaps(traffic):
                continue
            is_over = _end(other.content) <= max(now, experiment.starts or 0)
            if not is_over and _end(experiment) > (other.content.starts or 0):
                raise self.conflict(
                    f"the experiment {other.name} has some of this traffic of layer {traffic.layer} at the same time:"
                    " choose another part of the layer, another layer, or other times"
                )


def key_of(experiment: Named[Experiment]) -> str:
    """Return what stands for an experiment in tokens, counters and assignments.

    The start is part of it: one that has the name of a deleted one is another experiment.
    """
    return f"{experiment.name}@{experiment.content.starts}"


def counted_as(experiment: Named[Experiment]) -> str:
    """Return the hash that stands for an experiment in counters."""
    return label_of(hash_of(key_of(experiment)))


def _end(experiment: Experiment) -> float:
    return float("inf") if experiment.ends is None else experiment.ends
