"""The models that a pass compares, as they are served: a candidate in its run folder, or a published version."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from model_store.bundle.bundle import Bundle, read_catalogue
from model_store.bundle.golden import GOLDEN, Golden, goldens_from_json
from model_store.bundle.parts import Read, read_neighbours, read_ranker
from model_store.catalogue.catalogue import Catalogue
from model_store.config import ModelConfig
from model_store.errors import GraphRefused
from model_store.network.recommender import Recommender
from model_store.new_items.item_encoder import ItemEncoder
from model_store.new_items.placed_items import place_items
from model_store.replication.item_payload import ItemContent
from model_store.search.fusion import Fusion
from model_store.search.neighbours import Neighbours
from model_store.search.ranker import Ranker
from training.artefacts import BUNDLE
from training.data.dataset import Dataset
from training.evaluation.answers import Answers
from training.pipeline import Pipeline

SEARCH = "search.onnx"


@dataclass(frozen=True)
class ServedModel:
    """A model with everything that its answers come from.

    Attributes:
        catalogue: All items that it can answer on the data of the pass.
        trained: Rows of the catalogue below it were trained, the others are placed by their content.
        read: Returns the bytes of a file of its bundle by name.
        size: Bytes of all files together.
        collision_rate: Share of items whose nearest codes are another item's, too; ``None`` in older versions.
        answers: Its answers to the test users of the data of the pass, by rows of that data, if they are known already.
    """

    config: ModelConfig
    fusion: Fusion
    catalogue: Catalogue
    trained: int
    recommender: Recommender
    neighbours: Neighbours | None
    ranker: Ranker | None
    read: Read
    size: int
    collision_rate: float | None
    answers: Answers | None = None

    def goldens(self) -> tuple[Golden, ...]:
        """Read the histories with the answers that the model gave when it was exported."""
        return goldens_from_json(self.read(GOLDEN))

    def search(self) -> bytes:
        """Read the exported search."""
        return self.read(SEARCH)


def published_model(bundle: Bundle, data: Dataset) -> ServedModel:
    """Return a published version on data that may have more items: those join its catalogue by their content."""
    about = bundle.manifest
    rate = about.tokenizer.get("collision_rate")
    catalogue = served_catalogue(bundle, data)
    return ServedModel(
        config=bundle.config,
        fusion=about.fusion,
        catalogue=catalogue,
        trained=about.data.counts.get("items", len(catalogue)),
        recommender=load_recommender(bundle),
        neighbours=bundle.neighbours(),
        ranker=bundle.ranker(),
        read=bundle.read,
        size=about.size,
        collision_rate=rate if isinstance(rate, float) else None,
    )


def exported_model(pipeline: Pipeline, data: Dataset) -> ServedModel:
    """Return the model of a run that has been exported.

    Args:
        pipeline: The run.
        data: Data of the pass; what the run's own evaluation found is kept unless that was on other data.
    """
    folder = pipeline.run.path / BUNDLE

    def read(name: str) -> bytes:
        return (folder / name).read_bytes()

    names = [path.name for path in folder.iterdir()]
    evaluation = pipeline.evaluate()
    fusion = Fusion.model_validate(evaluation.fusion)
    return ServedModel(
        config=pipeline.model,
        fusion=fusion,
        catalogue=read_catalogue(read, names, pipeline.model, fusion),
        trained=pipeline.dataset.n_items,
        recommender=pipeline.learner.recommender.eval(),
        neighbours=read_neighbours(read, names, fusion),
        ranker=read_ranker(read, names, pipeline.model),
        read=read,
        size=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        collision_rate=evaluation.tokenizer["collision_rate"],
        answers=pipeline.answers if pipeline.dataset.fingerprint == data.fingerprint else None,
    )


def served_catalogue(bundle: Bundle, data: Dataset) -> Catalogue:
    """Return a published model's catalogue with the new items of a data set added, as the service adds them."""
    catalogue = bundle.catalogue()
    missing = [row for row, item_id in enumerate(data.item_ids) if item_id not in catalogue.row_of]
    if not missing:
        return catalogue

    try:
        encoder = ItemEncoder.open(bundle)
    except GraphRefused:
        return catalogue  # an older release exported it, and the service does not add items to it either

    contents = [ItemContent(data.titles[row], data.categories[row], data.attributes[row]) for row in missing]
    ids = [data.item_ids[row] for row in missing]
    return place_items(catalogue, encoder, zip(ids, contents, strict=True)).catalogue


def load_recommender(bundle: Bundle) -> Recommender:
    """Return the recommender of a published model, in evaluation mode on the CPU."""
    recommender = Recommender(bundle.config)
    prefix = "recommender."
    weights = {name: torch.from_numpy(np.array(value)) for name, value in bundle.weights().items()}
    recommender.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return recommender.eval()
