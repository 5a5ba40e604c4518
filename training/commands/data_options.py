"""Options that the commands share: the data, how to read them, and the configuration; built once."""

from __future__ import annotations

from dataclasses import dataclass, field
from json import dumps
from typing import Annotated, Any

import typer

from model_store.errors import ConfigError
from training.config import PRESETS, TrainingConfig, load_config
from training.data.prepare import PrepareOptions

_DATA = "Interactions and items"
_CONFIG = "Configuration"

_ITEM_COLUMNS = ("title", "categories", "attributes", "vector", "items_key")
"""Columns of the items file."""


def _text(name: str, help_: str, panel: str = _DATA) -> Any:
    return typer.Option(name, help=help_, rich_help_panel=panel, show_default=False)


@dataclass(frozen=True)
class DataOptions:
    """Data and configuration of a command, as its options give them.

    A command takes one parameter of this type, see :mod:`model_store.option_groups`. The options override the section
    ``data`` of the configuration; an option that is empty overrides nothing.
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
            ConfigError: A key or value is not valid, or says how to read an items file that is not named.
        """
        if not self.data:
            raise ConfigError("there are no data", "name a file or folder with --data")
        columns = ("user", "item", "timestamp", "event", "value", "title", "categories", "vector", "items_key")
        given: dict[str, Any] = {f"columns.{name}": getattr(self, name) for name in columns}
        given["columns.attributes"] = [name.strip() for name in self.attributes.split(",") if name.strip()]
        given |= {"items_file": self.items, "separator": self.separator, "skip_bad": self.skip_bad}
        given |= {"query": self.query, "items_query": self.items_query}
        mapped = [f"data.{key}={dumps(value)}" for key, value in given.items() if value]
        config = load_config(self.preset, [*self.overrides, *mapped])
        _refuse_without_items(config.data)
        return config


def _refuse_without_items(data: PrepareOptions) -> None:
    """Refuse options that say how to read an items file if there is none, as they would be ignored."""
    if data.items_file or data.items_query:
        return
    options = {f"--{name.replace('_', '-')}": getattr(data.columns, name) for name in _ITEM_COLUMNS}
    options["--separator"] = data.separator
    given = [option for option, value in options.items() if value]
    if given:
        names = " and ".join(given)
        raise ConfigError(
            f"{names} {'say' if len(given) > 1 else 'says'} how to read an items file, but --items names none",
            f"name the table with one row per item: --items FILE, or leave {names} out",
        )
