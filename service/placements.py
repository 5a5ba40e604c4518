"""Placements of this replica: named sets of rules, laid under requests, with those of an experiment's variant."""

from __future__ import annotations

from typing import NamedTuple

from model_store.experiments.assignment import Assignment
from service.errors import NoSuchPlacement, PlacementConflict, PlacementsNotRead
from service.experiments.experiments import Experiments
from service.schemas.experiments import VariantModel
from service.schemas.placements import ONE_PLACEMENT, Placement, UsedPlacement
from service.schemas.recommend import RecommendRequest
from service.schemas.rules import Filter, Rules
from service.store.client import StoreClient
from service.store.document_store import DocumentStore
from service.store.documents import Documents, Named


class PlacedRequest(NamedTuple):
    """A request with the rules of its placement, and the placement, if it names one.

    Attributes:
        request: The request.
        placement: The placement.
        assignment: Who asks in the placement's experiment; ``None`` outside of it.
        model: The model that the experiment chose; ``None`` if it leaves that to others.
    """

    request: RecommendRequest
    placement: UsedPlacement | None
    assignment: Assignment | None = None
    model: VariantModel | None = None


class Placements(Documents[Placement]):
    """All placements; see :class:`~service.store.documents.Documents`.

    Args:
        store_client: Client of the store.
        wait_s: Longest wait for a read that a request needs.
        experiments: Experiments that placements name; ``None`` leaves them out, as batch runs do.
    """

    kind = "placement"

    def __init__(self, store_client: StoreClient, wait_s: float, experiments: Experiments | None = None) -> None:
        super().__init__(store_client, ONE_PLACEMENT, wait_s)
        self._experiments = experiments

    @property
    def _documents(self) -> DocumentStore:
        return self._store_client.store.placements

    def not_read(self) -> PlacementsNotRead:
        """Return the error for a store that could not be asked since the start."""
        return PlacementsNotRead()

    def not_found(self, name: str) -> NoSuchPlacement:
        """Return the error for a name that no placement has."""
        return NoSuchPlacement(name)

    def conflict(self, reason: str) -> PlacementConflict:
        """Return the error for a write that what is stored does not allow."""
        return PlacementConflict(reason)

    async def apply(self, request: RecommendRequest) -> PlacedRequest:
        """Return the request with the rules of its placement where it gives none. Raises like :meth:`find`.

        The rules of a variant of the placement's experiment stand between both, unless the request names a model: it
        takes part in no experiment.
        """
        if request.placement is None:
            return PlacedRequest(request, None)

        found = await self.find(request.placement)
        used: UsedPlacement = {"name": found.name, "revision": found.revision}
        chosen = None
        experiment = found.content.experiment if request.model is None else None
        if self._experiments is not None and experiment is not None:
            chosen = self._experiments.choose(experiment, request.user_id, request.session_id)
        if chosen is not None:
            request = lay_under(request, chosen.rules)
        placed = lay_under(request, found.content)
        if chosen is None:
            return PlacedRequest(placed, used)
        return PlacedRequest(placed, used, chosen.assignment, chosen.model)

    async def put(self, name: str, rules: Placement, expected: int | None) -> Named[Placement]:
        """Store a placement; this replica uses it when this returns.

        Args:
            name: Its name.
            rules: Its rules.
            expected: Revision of the placement that it replaces, 0 for none; ``None``: whichever.

        Raises:
            InvalidFields: It is too large.
            PlacementConflict: Another revision is stored, or there are too many placements.
            StoreError: It could not be stored; without ``expected`` it is harmless to repeat it.
        """
        return await self._put(name, rules, rules.payload(), expected)


def lay_under(request: RecommendRequest, rules: Rules) -> RecommendRequest:
    """Return the request with the rules of a placement, or of a variant, where it gives none.

    The request's filter replaces the placement's, with two exceptions: what the placement denies stays denied, and its
    ``not`` stays unless the request's filter has one of its own.
    """
    names = (rules.model_fields_set & Rules.model_fields.keys()) - request.model_fields_set
    update = {name: getattr(rules, name) for name in names}
    if "filter" in request.model_fields_set and rules.filter is not None:
        update["filter"] = _keep_exclusions(request.filter, rules.filter)
    return request.model_copy(update=update)


def _keep_exclusions(filter_: Filter | None, below: Filter) -> Filter | None:
    """Return a request's filter with what the placement's leaves out."""
    update: dict[str, object] = {}
    if below.deny:
        update["deny"] = [*below.deny, *((filter_ and filter_.deny) or ())]
    if below.not_ is not None and (filter_ is None or "not_" not in filter_.model_fields_set):
        update["not_"] = below.not_
    return (filter_ or Filter()).model_copy(update=update) if update else filter_
