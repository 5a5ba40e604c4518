"""Choice of the model that answers a request: one that it names, its experiment's variant's, or its canary's."""

from __future__ import annotations

from typing import TypeVar

from model_store.experiments.assignment import Assignment
from service.models.manager import ModelManager
from service.schemas.recommend import RecommendRequest
from service.second_models.canary import Ask, Canary, CountedAnswer
from service.second_models.second_models import SecondModels

A = TypeVar("A", bound=CountedAnswer)


class ModelChoice:
    """Lets the right model answer. Used from one event loop.

    Args:
        live: The live model.
        second_models: Those of aliases.
        canary: Gives a share of the users and sessions to the candidate.
    """

    def __init__(self, live: ModelManager, second_models: SecondModels, canary: Canary) -> None:
        self._live = live
        self._second_models = second_models
        self._canary = canary

    async def answer(self, request: RecommendRequest, assignment: Assignment | None, ask: Ask[A]) -> A:
        """Answer a request.

        A request that names a model says nothing about what users do with it: neither the canary nor an experiment
        counts it, and if that model fails, so does the request.

        Args:
            request: The request.
            assignment: Variant of an experiment.
            ask: Answers it by the model of a slot.

        Raises:
            NoSuchModel, ModelNotLoaded: See :meth:`~service.second_models.SecondModels.find`.
        """
        if request.model is not None:
            slot = self._live if request.model == "live" else self._second_models.find(request.model)
            return await ask(slot, None)
        if self._canary.trial is None:
            return await ask(self._live, assignment)
        return await self._canary.answer(request, assignment, ask)
