"""Choice of the model that answers a request: one that it names, its experiment's variant's, or its canary's."""

from __future__ import annotations

from typing import TypeVar

from model_store.experiments.assignment import Assignment
from service.attribution.signer import Signer
from service.errors import DeadlineMissed
from service.models.manager import ModelManager
from service.schemas.experiments import VariantModel
from service.schemas.recommend import RecommendRequest
from service.second_models.canary import Ask, Canary, CountedAnswer
from service.second_models.second_models import SecondModels
from service.telemetry.log_sampling import SampledLog
from service.telemetry.telemetry import Telemetry

A = TypeVar("A", bound=CountedAnswer)


class ModelChoice:
    """Lets the right model answer. Used from one event loop.

    Args:
        live: The live model.
        second_models: Those of aliases.
        canary: Gives a share of the users and sessions to the candidate.
        signer: Counts the requests of variants that the live model answers in place of another one.
        telemetry: Metrics of the service.
    """

    def __init__(
        self, live: ModelManager, second_models: SecondModels, canary: Canary, signer: Signer, telemetry: Telemetry
    ) -> None:
        self._live = live
        self._second_models = second_models
        self._canary = canary
        self._signer = signer
        self._fallbacks = {reason: telemetry.variant_fallbacks.labels(reason) for reason in ("absent", "failed")}
        self._log = SampledLog()

    async def answer(
        self, request: RecommendRequest, assignment: Assignment | None, model: VariantModel | None, ask: Ask[A]
    ) -> A:
        """Answer a request.

        A request that names a model says nothing about what users do with it: neither the canary nor an experiment
        counts it, and if that model fails, so does the request. Where a variant of an experiment has a model, the
        canary has no part in it: the shares of both differ, so requests of one experiment more or less in one lane
        would look like a difference between the versions.

        Args:
            request: The request.
            assignment: Variant of an experiment.
            model: Model of that variant; ``None`` if no variant names one.
            ask: Answers it by the model of a slot.

        Raises:
            NoSuchModel, ModelNotLoaded: See :meth:`~service.second_models.SecondModels.find`.
        """
        if request.model is not None:
            slot = self._live if request.model == "live" else self._second_models.find(request.model)
            return await ask(slot, None)
        if model == "candidate":
            return await self._answer_by_candidate(assignment, ask)
        if model == "live":
            return await ask(self._live, assignment)
        if self._canary.trial is None:
            return await ask(self._live, assignment)
        return await self._canary.answer(request, assignment, ask)

    async def _answer_by_candidate(self, assignment: Assignment | None, ask: Ask[A]) -> A:
        """Answer by the candidate; while it does not answer, by the live model.

        Who asks stays in the variant either way: chance chose the variant, not whether its model was there.
        """
        candidate = self._second_models.candidate
        serving = candidate.current
        if serving is not None:
            try:
                return await ask(candidate, assignment)
            except DeadlineMissed:  # no time is left for another answer
                raise
            except Exception as failure:  # noqa: BLE001  whatever is wrong with the candidate, the live model answers
                self._log.warning("variant_answered_by_live", version=serving.version, cause=repr(failure))

        found = await ask(self._live, assignment)  # fails as well if the request is to blame
        self._fallbacks["absent" if serving is None else "failed"].inc()
        if assignment is not None:
            self._signer.note_fallback(assignment)
        return found
