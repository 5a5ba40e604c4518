"""Options that the commands share: the data, how to read them, and the configuration; built once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import wraps
from json import dumps
from typing import Annotated, Any, get_type_hints

import typer

from model_store.errors import ConfigError
from training.config import PRESETS, TrainingConfig, load_config

_DATA = "Interactions and items"
_CONFIG = "Configuration"


def _text(name: str, help_: str, panel: str = _DATA) -> Any:
    return typer.Option(name, help=help_, rich_help_panel=panel, show_default=False)


@dataclass(frozen=True)
class DataOptions:
    """Data and configuration of a command, as its options give them.

    A command takes one parameter of this type and is decorated with :func:`with_data_options`. The options override
    the section ``data`` of the configuration; an option that is empty overrides nothing.
    """

    data: Annotated[
        str,
        _text(
            "--data",
            "Interactions: a file or folder (CSV, Parquet, JSON lines …), a prepared folder, a URL (https://, s3:// "
            "…), the URL of a database with --query, or ml-100k, which is downloaded.",
        ),
    ]
    query: Annotated[str, _text("--query", "SQL query for the interactions, if --data is the URL of a database.")] = ""
    items: Annotated[
        str, _text("--items", "Table with one row per item: title, categories, attributes; a path or a URL.")
    ] = ""
    items_query: Annotated[
        str, _text("--items-query", "SQL query for the items, in the database of --items, or of --data.")
    ] = ""
    user: Annotated[str, _text("--user", "Column of the user id. Default: the usual names, such as USER_ID.")] = ""
    item: Annotated[str, _text("--item", "Column of the item id. Default: the usual names, such as sku.")] = ""
    timestamp: Annotated[str, _text("--timestamp", "Column of the time. Default: the usual names.")] = ""
    event: Annotated[str, _text("--event", "Column of the type: view, purchase … Default: the usual names.")] = ""
    value: Annotated[
        str, _text("--value", "Column of a number, such as a rating, for data.min_value. Default: the usual names.")
    ] = ""
    title: Annotated[str, _text("--title", "Items: column of the title. Default: the usual names.")] = ""
    categories: Annotated[str, _text("--categories", "Items: column of the categories. Default: the usual names.")] = ""
    attributes: Annotated[
        str, _text("--attributes", "Items: further columns to keep, separated by commas: price,in_stock.")
    ] = ""
    vector: Annotated[
        str, _text("--vector", "Items: column with a vector of each item, from any encoder of text or images.")
    ] = ""
    items_key: Annotated[
        str,
        _text("--items-key", "Items: column of the item id. Default: the name in the interactions, or a usual one."),
    ] = ""
    separator: Annotated[
        str, _text("--separator", "Items: text between the categories of an item. Default: found out.")
    ] = ""
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Skip lines that cannot be used, and list them in skipped.csv beside the prepared data.",
            rich_help_panel=_DATA,
        ),
    ] = False
    preset: Annotated[
        str, typer.Option(help=f"Preset of sizes and schedule: {', '.join(PRESETS)}.", rich_help_panel=_CONFIG)
    ] = "cpu"
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="Override a setting: section.key=value. Repeatable; docs/SETTINGS.md lists all.",
            rich_help_panel=_CONFIG,
            show_default=False,
        ),
    ] = field(default_factory=list)

    def load_config(self) -> TrainingConfig:
        """Return the configuration: the preset, overridden by ``--set``, overridden by the other options.

        Raises:
            ConfigError: A key or value is not valid.
        """
        if not self.data:
            raise ConfigError("there are no data", "name a file or folder with --data")
        columns = ("user", "item", "timestamp", "event", "value", "title", "categories", "vector", "items_key")
        given: dict[str, Any] = {f"columns.{name}": getattr(self, name) for name in columns}
        given["columns.attributes"] = [name.strip() for name in self.attributes.split(",") if name.strip()]
        given |= {"items_file": self.items, "separator": self.separator, "skip_bad": self.skip_bad}
        given |= {"query": self.query, "items_query": self.items_query}
        mapped = [f"data.{key}={dumps(value)}" for key, value in given.items() if value]
        return load_config(self.preset, [*self.overrides, *mapped])


def with_data_options(default_data: str | None = None, preset: str = "cpu") -> Callable[..., Callable[..., None]]:
    """Give a command one option for each field of :class:`DataOptions`, in the place of its parameter of that type.

    Args:
        default_data: Default of ``--data``; without one the option is required.
        preset: Default of ``--preset``.
    """
    defaults = {"preset": preset} | ({} if default_data is None else {"data": default_data})

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [each.replace(annotation=hints[each.name]) for each in inspect.signature(command).parameters.values()]
        place = next(number for number, each in enumerate(own) if each.annotation is DataOptions)
        name = own[place].name
        shared = _parameters(defaults)

        @wraps(command)
        def run(**given: Any) -> None:
            options = DataOptions(**{each.name: given.pop(each.name) for each in shared})
            command(**{name: options}, **given)

        parameters = [*own[:place], *shared, *own[place + 1 :]]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _parameters(defaults: dict[str, str]) -> list[inspect.Parameter]:
    """Return the fields of :class:`DataOptions` as parameters of a command."""
    hints = get_type_hints(DataOptions, include_extras=True)
    parameters = []
    for each in fields(DataOptions):
        usual = [] if each.default_factory is not MISSING else each.default
        default = defaults.get(each.name, inspect.Parameter.empty if usual is MISSING else usual)
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(each.name, kind, default=default, annotation=hints[each.name]))
    return parameters
