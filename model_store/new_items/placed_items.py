"""Many items placed in a catalogue by their content, part by part, as the service places those that come live."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from model_store.catalogue.catalogue import Catalogue, ItemPut
from model_store.errors import CatalogueFull, ItemRefused
from model_store.new_items.item_encoder import ItemEncoder
from model_store.replication.item_payload import ItemContent, NewItem

PART = 8_192
"""Items that are encoded and join the catalogue together: larger parts need more memory, smaller ones more copies."""


class PlacedItems(NamedTuple):
    """A catalogue with further items, and the ids of those that could not join it."""

    catalogue: Catalogue
    left_out: list[str]  # the encoder refused them, or there was no room


def place_items(catalogue: Catalogue, encoder: ItemEncoder, items: Iterable[tuple[str, ItemContent]]) -> PlacedItems:
    """Give items their codes and vectors by their content, and append them to a catalogue in the given order.

    Args:
        catalogue: A catalogue without these items.
        encoder: The encoder of the catalogue's model.
        items: Ids and contents, each id once.
    """
    rest = iter(items)
    left_out: list[str] = []
    while part := list(islice(rest, PART)):
        puts, refused = _place(catalogue, encoder, part)
        catalogue = catalogue.with_changes(puts)
        left_out += refused
    return PlacedItems(catalogue, left_out)


def _place(
    catalogue: Catalogue, encoder: ItemEncoder, items: Sequence[tuple[str, ItemContent]]
) -> tuple[list[ItemPut], list[str]]:
    """Return the changes that add these items, and the ids of those that cannot join."""
    encoded = encoder.encode_all([NewItem(*content) for _, content in items])
    places = encoder.placement(catalogue)

    puts: list[ItemPut] = []
    left_out: list[str] = []
    for (item_id, content), found in zip(items, encoded, strict=True):
        if isinstance(found, ItemRefused):
            left_out.append(item_id)
            continue
        try:
            codes = places.place(found.latent)
        except CatalogueFull:
            left_out.append(item_id)
        else:
            puts.append(ItemPut(item_id, *content, codes, found.vector, found.resemblance))
    return puts, left_out
