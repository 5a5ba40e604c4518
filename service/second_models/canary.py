"""Canary: routes users and sessions to the candidate, counts how it does, and rolls it back by itself.

A request of the candidate that fails for the candidate's sake is answered by the live model instead, and counts as an
error of the candidate. Each second the guardrails are checked with the figures of this replica, and every few seconds
with those of all replicas, where the store has them. While the store is away the assignment stays the same, and this
replica's figures go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import structlog

from model_store.attribution.counters import day_of, days_until
from model_store.attribution.experiment_counters import CLICK, tally_of, variant_of_days
from model_store.bundle.registry import ModelStore
from model_store.errors import EtegrecError, StoreError
from model_store.experiments.assignment import Assignment
from model_store.experiments.canary import CLICKED, Failure, find_failure
from model_store.experiments.report import judge as compare
from model_store.experiments.tally import Variant
from service.async_tasks import Expected, repeat_until_cancelled
from service.attribution.signer import Signer
from service.errors import DeadlineMissed, InvalidFields
from service.models.manager import ModelManager
from service.models.slot import ModelSlot
from service.schemas.recommend import RecommendRequest
from service.second_models.canary_ends import CanaryEnds
from service.second_models.canary_trial import LANES, CanaryTrial, Lane, judge
from service.second_models.second_model import SecondModel
from service.settings import Settings
from service.store.client import StoreClient
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

CHECK_S = 1.0
"""Seconds between two checks of the guardrails."""

STORE_CHECKS = 5
"""Checks after which the figures of all replicas are read."""

KEPT_S = 30.0
"""Seconds after a trial until what is kept of its users and sessions is deleted: other replicas may still end it."""


class CountedAnswer(Protocol):
    """An answer, as far as it is counted."""

    @property
    def served_by(self) -> str:
        """``model``, ``cache`` or ``popular``."""

    @property
    def item_count(self) -> int:
        """Number of items."""

    @property
    def took_ms(self) -> float:
        """Latency in milliseconds."""


A = TypeVar("A", bound=CountedAnswer)
Ask = Callable[[ModelSlot, Assignment | None], Awaitable[A]]
"""Answers a request by the model of a slot, counted as the assignment says."""


class Canary:
    """The canary of this replica. Used from one event loop.

    Args:
        live: The live model.
        candidate: The model of the alias ``candidate``.
        ends: Canaries that were rolled back.
        model_store: Gets the mark of a version that is rolled back, if it can be written.
        store_client: Client of the store, which has the figures of all replicas.
        signer: Counts errors for all replicas.
        settings: See :class:`~service.settings.Settings`.
        telemetry: Metrics.

    Attributes:
        trial: The trial that runs; ``None`` while there is none, which costs requests nothing.
    """

    def __init__(
        self,
        live: ModelManager,
        candidate: SecondModel,
        ends: CanaryEnds,
        model_store: ModelStore,
        store_client: StoreClient,
        signer: Signer,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self.trial: CanaryTrial | None = None
        self._live = live
        self._candidate = candidate
        self._ends = ends
        self._model_store = model_store
        self._store_client = store_client
        self._signer = signer
        self._counters_days = settings.counters_days
        self._telemetry = telemetry
        self._checks = 0
        self._over: list[tuple[float, CanaryTrial]] = []  # with the time when each is forgotten

    async def answer(self, request: RecommendRequest, assignment: Assignment | None, ask: Ask[A]) -> A:
        """Answer a request by the model that its user or session gets.

        Args:
            request: The request.
            assignment: Variant of an experiment. Such a request counts for the experiment, not for the comparison of
                clicks here; how it went counts here as well.
            ask: Answers it.
        """
        trial = self.trial
        lane = None if trial is None else trial.lane_of(request.user_id, request.session_id)
        is_freed = lane == "candidate" and self._candidate.current is None
        if trial is None or lane is None or is_freed:
            return await ask(self._live, assignment)

        counted = assignment or trial.assignment(lane)
        if lane == "candidate":
            return await self._answer_by_candidate(trial, assignment, counted, ask)
        try:
            found = await ask(self._live, counted)
        except InvalidFields:
            raise
        except Exception:
            self._note_error(trial, lane, counted)
            raise
        self._note(trial, lane, found)
        return found

    async def _answer_by_candidate(
        self, trial: CanaryTrial, assignment: Assignment | None, counted: Assignment, ask: Ask[A]
    ) -> A:
        try:
            found = await ask(self._candidate, counted)
        except DeadlineMissed:  # no time is left for another answer
            self._note_error(trial, "candidate", counted)
            raise
        except Exception as failure:  # noqa: BLE001  whatever is wrong with the candidate, the live model answers
            log.debug("candidate_failed", version=trial.alias.version, cause=type(failure).__name__)
            return await self._answer_instead(trial, assignment, counted, ask)
        self._note(trial, "candidate", found)
        return found

    async def _answer_instead(
        self, trial: CanaryTrial, assignment: Assignment | None, counted: Assignment, ask: Ask[A]
    ) -> A:
        """Answer by the live model in place of the candidate, whose error it is even if no time was left for that."""
        try:
            found = await ask(self._live, assignment)
        except InvalidFields:  # the request is to blame
            raise
        except Exception:
            self._note_error(trial, "candidate", counted)
            raise
        self._note_error(trial, "candidate", counted)
        return found

    async def watch(self) -> None:
        """Check the guardrails each second, until cancelled."""
        await repeat_until_cancelled(
            self.step,
            CHECK_S,
            on_crash=partial(log.exception, "canary_check_crashed"),
            expected=Expected(StoreError, _log_outage),
        )

    async def step(self) -> None:
        """Begin or end a trial as the alias says, and roll it back if the candidate does worse.

        Raises:
            StoreError: The store is away; the figures of this replica were checked.
        """
        self._follow_alias()
        if self.trial is not None:
            await self._roll_back_if(self.trial, find_failure(judge(self.trial.here), None))
        await self._ends.store_own()

        self._checks += 1
        trial = self.trial
        if trial is not None and self._checks % STORE_CHECKS == 0:
            await self._read_everywhere(trial)
            assert trial.everywhere is not None
            await self._roll_back_if(trial, find_failure(judge(trial.everywhere), trial.clicked))
            await self._ends.store_own()
        await self._forget_old()

    def _follow_alias(self) -> None:
        """Begin the trial of a candidate that serves, and end it when it loses the alias or was rolled back.

        Until the store was asked once, nobody knows whether it was: then nobody gets it.
        """
        alias = self._candidate.alias
        is_loaded = alias is not None and self._candidate.current is not None
        if alias is None or not is_loaded or not alias.share or not self._ends.is_read or self._ends.has_ended(alias):
            self._stop()
        elif self.trial is None or self.trial.alias != alias:
            self._stop()
            self.trial = CanaryTrial(alias)
            log.info("canary_begins", version=alias.version, share=alias.share)

    def _stop(self) -> None:
        if self.trial is not None:
            self._over.append((time.monotonic() + KEPT_S, self.trial))
            self.trial = None

    async def _roll_back_if(self, trial: CanaryTrial, failure: Failure | None) -> None:
        if failure is None or self.trial is not trial:
            return

        self._stop()
        self._ends.end(trial.alias, failure)
        self._telemetry.canary_rollbacks.labels(failure.figure).inc()
        log.error("canary_rolled_back", version=trial.alias.version, figure=failure.figure, reason=failure.reason)
        if self._candidate.alias == trial.alias:  # else another version has it by now, which has done nothing wrong
            await self._candidate.end()
        try:
            await asyncio.to_thread(self._model_store.end_canary, trial.alias, f"canary: {failure.reason}")
        except EtegrecError as refused:
            log.warning("canary_not_marked_in_model_store", cause=str(refused), hint=refused.hint)

    async def _read_everywhere(self, trial: CanaryTrial) -> None:
        """Read the figures of all replicas since the trial began.

        Raises:
            StoreError: The store is away.
        """
        now = int(time.time())
        since = int(trial.alias.since.timestamp())
        days = [day for day in days_until(now, self._counters_days) if day >= day_of(since)]
        store = self._store_client.store
        counters = await store.counters.read(days)
        sums = await store.subjects.sums(trial.label)

        found = [variant_of_days(counters, trial.label, variant) for variant in range(len(LANES))]
        trial.everywhere = {lane: each.answered for lane, each in zip(LANES, found, strict=True)}
        variants = [Variant(lane, share) for lane, share in zip(LANES, trial.shares, strict=True)]
        tallies = [tally_of(each, sums, variant, CLICK) for variant, each in enumerate(found)]
        comparisons = compare(variants, tallies).comparisons
        trial.clicked = next(each for each in comparisons if each.outcome == CLICKED)

    async def _forget_old(self) -> None:
        """Delete what is kept of the users and sessions of trials that are over."""
        now = time.monotonic()
        while self._over and self._over[0][0] <= now:
            await self._store_client.store.subjects.delete(self._over[0][1].label, with_sums=True)
            self._over.pop(0)

    def _note(self, trial: CanaryTrial, lane: Lane, found: CountedAnswer) -> None:
        """Count an answer; one from the cache says nothing about the model."""
        if found.served_by == "cache":
            return
        trial.here[lane].note(found.item_count, found.took_ms)
        self._telemetry.canary_requests.labels(lane, "answered" if found.item_count else "empty").inc()

    def _note_error(self, trial: CanaryTrial, lane: Lane, counted: Assignment) -> None:
        trial.here[lane].errors += 1
        self._telemetry.canary_requests.labels(lane, "error").inc()
        if counted is trial.assignment(lane):  # errors of an experiment are counted where it is
            self._signer.note_error(counted)


def _log_outage(failure: StoreError, _: bool) -> None:
    log.debug("canary_figures_not_read", cause=str(failure), hint=failure.hint)
