"""Columns of a table by their meaning: the named one, else one with a usual name, in any spelling."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from pydantic import Field

from model_store.config import Section
from model_store.errors import DataError

_USUAL = {
    "user": "user_id user reviewer_id customer_id customer visitor_id visitor client_id client account_id member_id "
    "buyer_id shopper_id profile_id uid",
    "item": "item_id item parent_asin asin movie_id product_id product sku article_id article game_id app_id book_id "
    "track_id content_id listing_id offer_id",
    "timestamp": "timestamp unix_review_time unix_time time ts event_time event_timestamp event_date datetime "
    "date_time date created_at created occurred_at purchased_at purchase_date ordered_at order_date",
    "event": "event event_type event_name action action_type behavior behaviour interaction_type type",
    "value": "value rating score overall stars",
    "title": "title movie_title name product_name product_title item_name item_title",
    "categories": "categories category genres genre class category_name product_category product_type",
}
"""Names that are recognised without a mapping, in order of preference; case, ``_``, ``-`` and spaces do not count."""

_ITEM_KEYS = "id key item_key product_key code"
"""Further names of the item id, in the items file only."""

_OPTIONS = {
    "items_key": "--items-key",
    "attributes": "--attributes",
    "vector": "--vector",
    **{kind: f"--{kind}" for kind in _USUAL},
}

_SHOWN = 30  # columns that a message lists


class Columns(Section):
    """Names of the columns; where one is empty, the usual names are tried, in any spelling."""

    user: str = Field("", description="column of the user id")
    item: str = Field("", description="column of the item id")
    timestamp: str = Field("", description="column of the time: Unix time in s, ms, µs or ns, or an ISO 8601 date")
    event: str = Field("", description="column of the type of the interaction: view, purchase, …")
    value: str = Field("", description="column of a number that `data.min_value` compares, such as a rating")
    title: str = Field("", description="column of the title, in the items file")
    categories: str = Field("", description="column of the categories, in the items file: a list, or separated text")
    attributes: tuple[str, ...] = Field((), description="further columns of the items file to keep")
    vector: str = Field(
        "",
        description="column of the items file with a vector of each item, from any encoder of text or images: lists of "
        "numbers of one width",
    )
    items_key: str = Field("", description="column of the item id in the items file, if it has another name there")


def find_column(file: str, found: Sequence[str], kind: str, named: str, required: bool = True) -> str:
    """Find the column that holds ``kind``: the named one, else one with a usual name, else "" if it is not required.

    Args:
        file: Name of the file, for messages.
        found: Columns of the file.
        kind: A field of :class:`Columns`.
        named: Name that was given; case, ``_``, ``-`` and spaces count only if two columns differ by nothing else.
        required: Refuse a file without such a column; a column that was named is always required.

    Raises:
        DataError: There is none; the message lists the columns, and the option that names one.
    """
    candidates = [named] if named else _USUAL.get(kind, "").split()
    spelled = {_plain(name): name for name in reversed(found)}
    for name in candidates:
        if name in found:
            return name
        if _plain(name) in spelled:
            return spelled[_plain(name)]
    if not required and not named:
        return ""
    raise _no_column(file, found, kind, named)


def find_items_key(file: str, found: Sequence[str], columns: Columns, item: str = "") -> str:
    """Find the column of the item id in an items file.

    It is ``columns.items_key``, else a column with the name that the interactions use, else one with a usual name.

    Args:
        file: Name of the items file.
        found: Its columns.
        columns: Names that were given.
        item: Name of the column in the interactions, if it is known.

    Raises:
        DataError: There is none.
    """
    if columns.items_key:
        return find_column(file, found, "items_key", columns.items_key)
    for name in filter(None, (columns.item, item)):
        if _plain(name) in {_plain(each) for each in found}:
            return find_column(file, found, "item", name)

    spelled = {_plain(name): name for name in reversed(found)}
    for name in (*_USUAL["item"].split(), *_ITEM_KEYS.split()):
        if _plain(name) in spelled:
            return spelled[_plain(name)]
    raise _no_column(file, found, "items_key", columns.item)


def describe(names: dict[str, str]) -> str:
    """Describe the columns that were found: ``user from "USER_ID", item from "sku"``; as named as usual, only user."""
    return ", ".join(kind if kind == name else f'{kind} from "{name}"' for kind, name in names.items() if name)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a question that names the most similar of the known names, with a space before it; "" if none is."""
    plain = {_plain(each): each for each in known}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.6)
    return f" (did you mean {plain[close[0]]!r}?)" if close else ""


def _no_column(file: str, found: Sequence[str], kind: str, named: str) -> DataError:
    shown = ", ".join(name[:40] for name in found[:_SHOWN]) + (" …" if len(found) > _SHOWN else "")
    what = "column of item ids" if kind == "items_key" else f"{kind} column"
    wanted = f"no column {named!r}{did_you_mean(named, found)}" if named else f"no {what} with a usual name"
    return DataError(
        f"{file} has {wanted}; its columns are {shown}",
        f"name the column with {_OPTIONS[kind]} NAME; the first line of a file must name its columns",
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.split(":")[0]).lower() or name
