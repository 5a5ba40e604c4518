"""The catalogue of a bundle: the trained items, and after them those that are placed by their content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from model_store.catalogue.catalogue import Catalogue
from model_store.new_items.item_encoder import CONTENT_GRAPH, ItemEncoder
from model_store.new_items.placed_items import place_items
from model_store.replication.item_payload import ItemContent
from training.data.dataset import Dataset
from training.data.prepare import UNPLACEABLE, not_served_table
from training.data.untrained_items import UntrainedItems
from training.pipeline import Pipeline

NO_ROOM = "no semantic ID is left: train with a larger model.tokenizer.codebook_size or more levels"


class ServedItems(NamedTuple):
    """The items of a bundle, and those that it cannot have."""

    catalogue: Catalogue  # trained items in the rows of the data set, then the placed ones
    no_room: list[str]  # ids of items that could not be placed

    def not_served(self, data: Dataset) -> bytes:
        """Return the CSV table of items that are not served, with reasons; empty if there are none."""
        bare = data.unplaceable_items()
        tables = [not_served_table(data, bare, UNPLACEABLE)] if len(bare) else []
        if self.no_room:
            full = not_served_table(data, pl.Series(self.no_room, dtype=pl.String), NO_ROOM)
            tables.append(full.split(b"\n", 1)[1] if tables else full)
        return b"".join(tables)

    def summary(self, data: Dataset) -> list[str]:
        """Describe in sentences what is served besides the trained items, and what is not."""
        placed = len(self.catalogue) - data.n_items
        bare = len(data.unplaceable_items())
        total = len(self.catalogue) + len(self.no_room) + bare
        few = f"fewer than {data.filters.min_item} interactions"

        said = []
        if placed:
            said.append(f"{placed:,} of {total:,} items had {few}: served by content")
        if bare:
            said.append(f"{bare:,} of {total:,} items had {few} and no content to be placed by: not served")
        if self.no_room:
            said.append(f"{len(self.no_room):,} of {total:,} items are not served: {NO_ROOM}")
        return said


def trained_catalogue(pipeline: Pipeline) -> Catalogue:
    """Return the catalogue of the trained items, in the rows of the data set."""
    data = pipeline.dataset
    ids = pl.Series(data.item_ids, dtype=pl.String)
    return Catalogue(
        codebook_size=pipeline.model.tokenizer.codebook_size,
        item_ids=data.item_ids,
        codes=pipeline.learner.assignment.codes,
        titles=data.titles,
        categories=data.categories,
        attributes=data.attributes,
        popularity=data.popularity("all") + data.count_set_aside(ids),
        vectors=pipeline.learner.vectors,
    )


def add_placed_items(pipeline: Pipeline, trained: Catalogue, files: Mapping[str, bytes]) -> ServedItems:
    """Append the items that training left out and whose content is known, if they are to be served.

    Args:
        pipeline: The finished run.
        trained: The catalogue of the trained items.
        files: Exported graphs and weights, by name.
    """
    data = pipeline.dataset
    items = data.placeable_items()
    if not (len(items) and pipeline.config.data.serve_untrained and CONTENT_GRAPH in files):
        return ServedItems(trained, [])

    encoder = ItemEncoder.of_files(files.__getitem__, files, pipeline.model, takes_embeddings=False)
    placed = place_items(trained, encoder, contents(items))

    new_ids = placed.catalogue.item_ids[len(trained) :]
    counts = data.count_set_aside(pl.Series(new_ids, dtype=pl.String))
    popularity = np.concatenate([trained.popularity, counts])
    return ServedItems(replace(placed.catalogue, popularity=popularity), placed.left_out)


def contents(items: UntrainedItems) -> Iterator[tuple[str, ItemContent]]:
    """Yield ids and contents of items one by one, which takes no memory for all of them."""
    columns = zip(items.item_ids, items.titles, items.categories, items.attributes, strict=True)
    for item_id, title, categories, attributes in columns:
        yield item_id, ItemContent(title, categories, attributes)
