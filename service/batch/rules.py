"""Rules of a batch run, given on the command line and checked like those of ``POST /recommend``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model_store.errors import ConfigError
from service.batch.options import RuleOptions
from service.errors import RequestError
from service.http.body import parse
from service.http.limits import check_request, placement_bounds, request_bounds
from service.placements import lay_under
from service.schemas.placements import ONE_PLACEMENT, Placement
from service.schemas.recommend import ONE_REQUEST, RecommendRequest
from service.schemas.rules import RANKING_FIELDS
from service.settings import Settings

RULE_FIELDS = RANKING_FIELDS | {"exploration"}
"""Fields of the option ``--rules``; the others have options of their own."""

OPTIONS_HINT = "correct the option; fields and limits are those of POST /recommend, see docs/API.md"


def read_rules(settings: Settings, given: RuleOptions, placement_file: Path | None = None) -> RecommendRequest:
    """Return what every answer is asked for; options that are not given leave the rule to the placement.

    Args:
        settings: Limits of the service.
        given: The options.
        placement_file: JSON file with the rules of a placement that the store need not have.

    Raises:
        ConfigError: Names the field that is wrong, and what it takes.
    """
    options = {
        "k": given.k,
        "exclude_seen": _seen(given.exclude_seen) if given.exclude_seen else None,
        "max_per_prefix": given.max_per_prefix,
        "placement": given.placement or None,
    }
    fields = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in options.items() if value is not None]
    if given.filter_:
        _require_json("--filter", given.filter_)
        # As written, so that repeated keys and the like are seen by the parser.
        fields.append(f'"filter": {given.filter_}')
    if _has_fields(given.rules):
        fields.append(given.rules.strip()[1:-1])
    body = f"{{{', '.join(fields)}}}"
    try:
        request = parse(body.encode(), ONE_REQUEST, request_bounds(settings))
        if placement_file is not None:
            request = lay_under(request, _read_placement(placement_file, settings))
        check_request(request, settings)
    except RequestError as refused:
        raise ConfigError(f"the rules of the run: {refused}", OPTIONS_HINT) from refused
    return request


def _read_placement(path: Path, settings: Settings) -> Placement:
    """Read the body of a ``PUT /placements/{name}`` from a file."""
    try:
        return parse(path.read_bytes(), ONE_PLACEMENT, placement_bounds(settings))
    except OSError as cause:
        raise ConfigError(f"{path} cannot be read: {cause.strerror}", "correct --placement-file") from cause


def _has_fields(rules: str) -> bool:
    """Return whether the option has any of its fields; refuse all others."""
    if not rules:
        return False
    fields = _require_json("--rules", rules)
    if not isinstance(fields, dict) or not fields.keys() <= RULE_FIELDS:
        raise ConfigError(
            f"--rules must be a JSON object with fields of {', '.join(sorted(RULE_FIELDS))}",
            "give the other rules by their own options",
        )
    return bool(fields)


def _require_json(option: str, text: str) -> Any:
    """Return the value of an option that must be JSON by itself, so that it cannot add fields to the request around it.

    Raises:
        ConfigError: It is none; says where, in the text of the option.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as cause:
        raise ConfigError(
            f"{option} is not JSON: {cause.msg} at line {cause.lineno} column {cause.colno}", OPTIONS_HINT
        ) from cause
    except (ValueError, RecursionError) as cause:
        raise ConfigError(f"{option} is not JSON that can be read: {cause}", OPTIONS_HINT) from cause


def _seen(value: str) -> bool | list[str]:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    return [name.strip() for name in value.split(",") if name.strip()]
