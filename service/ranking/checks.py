"""Checks of ranking rules against the model that answers."""

from __future__ import annotations

from service.errors import InvalidFields
from service.field_errors import FieldError
from service.ranking.keys import RankingKey


def check_ranking(key: RankingKey, levels: int, can_steer: bool) -> None:
    """Refuse rules that the model cannot obey.

    Args:
        key: The rules.
        levels: Number of codes of the model's semantic IDs.
        can_steer: Whether the model's search takes steering.

    Raises:
        InvalidFields: Names the rule, and what to do.
    """
    wrong = [
        FieldError(
            f"max_per_prefix.{limit.depth}",
            f"must be at most {levels} codes, of which semantic IDs of this model consist",
            limit=levels,
        )
        for limit in key.limits
        if limit.depth > levels
    ]
    if key.steer and not can_steer:
        wrong.append(
            FieldError(
                "steer",
                "the model that serves was published by a release whose search takes no steering;"
                " publish it again with this release, or leave the field out",
            )
        )
    if wrong:
        raise InvalidFields(wrong)
