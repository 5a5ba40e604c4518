"""Preview of a placement: whom and what its rules would show more or less, before it is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from service.catalogue.range_check import RangeCheck
from service.models.loaded_model import LoadedModel
from service.models.manager import ModelManager
from service.placements import Placements, lay_under
from service.previews.audience import Audience, Rows, Sample, count_changed
from service.previews.turn import Turn
from service.ranking.filters import read_filter
from service.schemas.placements import Placement
from service.schemas.previews import PlacementPreviewQuery
from service.schemas.recommend import RecommendRequest


@dataclass(frozen=True)
class PreviewedPlacement:
    """Answers to one sample under the rules so far, and under other ones.

    Attributes:
        model: The model that answered.
        sample: The histories.
        k: Items that each answer may have under the new rules.
        k_before: The same under the rules so far.
        before: Rows of each answer so far, best first.
        after: The same under the new rules.
        ignored_rules: Rules that need to know who asks or what is viewed, which a preview does not.
    """

    model: LoadedModel
    sample: Sample
    k: int
    k_before: int
    before: list[Rows]
    after: list[Rows]
    ignored_rules: list[str]

    @property
    def changed(self) -> int:
        """Number of answers that differ."""
        return count_changed(self.before, self.after)


class PlacementPreviewer:
    """Previews placements with the model that serves now, one at a time."""

    def __init__(
        self, models: ModelManager, audience: Audience, placements: Placements, range_check: RangeCheck, turn: Turn
    ) -> None:
        self._models = models
        self._audience = audience
        self._placements = placements
        self._range_check = range_check
        self._turn = turn

    async def preview(self, rules: Placement, query: PlacementPreviewQuery) -> PreviewedPlacement:
        """Answer a sample of histories under the stored rules and under these.

        The rules of an experiment that either placement names are left out.

        Raises:
            NoSuchPlacement: There is no placement of the name in ``replaces``.
            NotReady, InvalidFields, QueueFull, DeadlineMissed: As for a recommendation.
        """
        await self._range_check.check(rules)
        after = lay_under(RecommendRequest(), rules)
        before = RecommendRequest(k=after.k)
        if query.replaces is not None:
            stored = await self._placements.find(query.replaces)
            before = lay_under(RecommendRequest(), stored.content)

        async with self._turn.taken():
            with self._models.lease() as serving:
                model = serving.model
                sample = await self._audience.draw(model, query.histories)
                answer = partial(self._audience.answer, serving, model, sample=sample)
                return PreviewedPlacement(
                    model,
                    sample,
                    after.k,
                    before.k,
                    await answer(before),
                    await answer(after, at=query.at),
                    _ignored_rules(after),
                )


def _ignored_rules(request: RecommendRequest) -> list[str]:
    ignored = list(read_filter(request.filter).ignored)
    return ignored if request.exclude_shown is None else [*ignored, "exclude_shown"]


def count_places(answers: Sequence[Rows]) -> Counter[int]:
    """Return how many answers hold each item, by row."""
    return Counter(chain.from_iterable(rows.tolist() for rows in answers))
