"""Placements and the preview of one."""

from typing import Any, TypedDict

from etegrec_client.types.items import CodedItem, ShownItem
from etegrec_client.types.rules import RuleFields


class Placement(RuleFields, total=False):
    """Rules that hold where a request gives none."""

    description: str
    experiment: str | None


class PlacementResponse(TypedDict):
    """A placement as it is stored."""

    name: str
    revision: int
    description: str
    rules: dict[str, Any]


class PlacementsResponse(TypedDict):
    """All placements."""

    revision: int
    placements: list[PlacementResponse]


class DeletedPlacementResponse(TypedDict):
    """Result of deleting a placement."""

    name: str
    revision: int


class AnswersPreview(TypedDict):
    """Answers to the sample of a preview under one set of rules."""

    k: int
    items: int
    different_items: int
    short: int


class CodeExposure(TypedDict):
    """Places of answers that items of one first code had."""

    code: int
    name: str | None
    example: ShownItem
    before: int
    after: int


class ItemExposure(CodedItem):
    """Answers that held an item."""

    before: int
    after: int


class PlacementPreviewResponse(TypedDict):
    """What rules would change."""

    model_version: str
    histories: int
    users: int
    changed: int
    ignored_rules: list[str]
    before: AnswersPreview
    after: AnswersPreview
    codes: list[CodeExposure]
    gained: list[ItemExposure]
    lost: list[ItemExposure]
