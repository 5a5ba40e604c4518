"""Groups of options that several commands share: each is a frozen dataclass, whose fields are the options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def with_option_groups(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field of every group among its parameters, in the place of the group.

    A group is a dataclass whose fields are annotated as parameters of a command are. The command gets it filled in.

    Args:
        defaults: By field, other defaults of this command; a field without any is required.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [each.replace(annotation=hints[each.name]) for each in inspect.signature(command).parameters.values()]
        groups: dict[str, Any] = {each.name: each.annotation for each in own if is_dataclass(each.annotation)}

        @wraps(command)
        def run(**given: Any) -> None:
            filled = {
                name: group(**{each.name: given.pop(each.name) for each in fields(group)})
                for name, group in groups.items()
            }
            command(**filled, **given)

        parameters: list[inspect.Parameter] = []
        for each in own:
            parameters += _parameters(groups[each.name], defaults) if each.name in groups else [each]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _parameters(group: Any, defaults: Mapping[str, Any]) -> Iterator[inspect.Parameter]:
    """Yield the fields of a group as parameters of a command."""
    hints = get_type_hints(group, include_extras=True)
    for each in fields(group):
        usual = each.default if each.default_factory is MISSING else each.default_factory()
        default = defaults.get(each.name, inspect.Parameter.empty if usual is MISSING else usual)
        yield inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[each.name])
