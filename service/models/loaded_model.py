"""A model version in memory: loaded from its bundle, warmed up, and proved by its goldens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import structlog

from model_store.bundle.bundle import Bundle
from model_store.bundle.golden import Answer, Golden, compare
from model_store.bundle.manifest import Manifest
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.packed import PackedStrings
from model_store.errors import BundleRefused, CatalogueFull, ConfigError, ItemRefused
from model_store.replication.item_payload import NewItem
from model_store.search.fusion import DENSE_ITEMS, Fusion
from model_store.search.transitions import Transitions
from service.engines.base import BEAM_WIDTHS, LARGEST_BATCH, Engine, SearchRequest
from service.engines.buckets import CapturePlan, batch_sizes, history_lengths
from service.filters import Rules
from service.replication.catalogue_source import Encoded, ItemCoder, Placer
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.settings import Settings

EngineOpener = Callable[[Bundle, Settings], Engine]
CoderOpener = Callable[[Bundle, Settings], ItemCoder]

log = structlog.get_logger()


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """Everything of one version that answering needs; immutable, so all parts switch together."""

    manifest: Manifest
    catalogue: Catalogue
    engine: Engine
    rules: Rules
    transitions: Transitions | None = None
    """Which items follow which, as the answers of this version use it."""
    replica: ReplicatedCatalogue | None = None
    """Where in the change stream ``catalogue`` is; none for one as trained."""

    @property
    def version(self) -> str:
        """Name of the version."""
        return self.manifest.version

    @property
    def revision(self) -> int:
        """Changes of the stream that ``catalogue`` contains."""
        return self.replica.at.revision if self.replica else 0

    @property
    def lineage(self) -> str:
        """Answers of one version and revision are the same on all replicas of one lineage."""
        return self.replica.lineage if self.replica else ""

    def moved(self, replica: ReplicatedCatalogue, rule_entries: int) -> LoadedModel:
        """The same model with a newer catalogue, ready to answer. Takes time: not for the event loop."""
        if replica.catalogue is self.catalogue:
            return replace(self, replica=replica)
        self.engine.bind(replica.catalogue)
        return replace(self, catalogue=replica.catalogue, rules=Rules(replica.catalogue, rule_entries), replica=replica)

    def beam_width(self, k: int) -> int:
        """The smallest shared beam width that serves k answers at the model's quality."""
        return _beam_width(self.manifest, k)

    def fusion(self, beam_width: int) -> Fusion:
        """How dense scores enter answers of this beam width: as many candidates a beam as the weight was fitted with.

        Catalogues beyond :data:`~model_store.search.fusion.DENSE_ITEMS` get their beams re-ranked and nothing more.
        """
        if len(self.catalogue) > DENSE_ITEMS:
            return _with_candidates(self.manifest.fusion, 0)
        return _fusion(self.manifest, beam_width)


def open_engine(bundle: Bundle, settings: Settings) -> Engine:
    """The engine that the settings name. Only the one that is used gets imported: torch may be absent.

    Raises:
        BundleRefused: The bundle's network or graph cannot be used.
        ConfigError: The engine is not installed.
    """
    if settings.engine == "fake":
        from service.engines.fake_engine import FakeEngine

        return FakeEngine(bundle.config.recommender.max_history)
    if settings.engine == "torch":
        return _open_torch_engine(bundle, settings)
    from service.engines.onnx_engine import EIGHT_BIT_GRAPH, GRAPH, OnnxEngine

    is_int8 = settings.onnx_precision == "int8" and EIGHT_BIT_GRAPH in bundle
    if settings.onnx_precision == "int8" and not is_int8:
        # Its answers were too different in 8 bits, or an older release exported it. Slower is better than not at all.
        log.warning("served_in_fp32", version=bundle.version, cause=f"the version has no {EIGHT_BIT_GRAPH}")
    graph = bundle.read(EIGHT_BIT_GRAPH if is_int8 else GRAPH)
    return OnnxEngine(graph, bundle.config, settings.threads, settings.searches, is_int8)


def _open_torch_engine(bundle: Bundle, settings: Settings) -> Engine:
    try:
        from service.engines.torch_engine import EAGER_PLAN, TorchEngine, default_device
    except ModuleNotFoundError as missing:
        hint = "install etegrec[gpu], or set ETEGREC_ENGINE=onnx"
        raise ConfigError(f"the torch engine needs the package {missing.name}", hint) from missing
    device = default_device()
    plan = usual_plan(bundle.manifest, settings.max_batch or LARGEST_BATCH) if device.type == "cuda" else EAGER_PLAN
    has_dense = bundle.manifest.fusion.weight > 0
    return TorchEngine(bundle.weights(), bundle.config, str(device), plan, settings.torch_precision, has_dense)


def usual_plan(manifest: Manifest, max_batch: int) -> CapturePlan:
    """The shapes that nearly all batches have, for an engine that is made ready for few of them."""
    width, longest = _beam_width(manifest, k=1), manifest.config.recommender.max_history
    return CapturePlan(batch_sizes(max_batch), history_lengths(longest), width, _fusion(manifest, width).candidates)


def _beam_width(manifest: Manifest, k: int) -> int:
    wanted = min(max(k, manifest.config.beam_width), BEAM_WIDTHS[-1])
    return next(width for width in BEAM_WIDTHS if width >= wanted)


def _fusion(manifest: Manifest, beam_width: int) -> Fusion:
    """For catalogues of which every item gets a dense score."""
    fitted = manifest.fusion
    candidates = math.ceil(fitted.candidates * beam_width / manifest.config.beam_width) if fitted.weight else 0
    return _with_candidates(fitted, candidates)


def _with_candidates(fusion: Fusion, candidates: int) -> Fusion:
    """Asked for by every request; usually nothing differs, and a copy costs more than the rest."""
    return fusion if fusion.candidates == candidates else fusion.model_copy(update={"candidates": candidates})


class KnownItemsOnly:
    """Stands in where a version can place no new items: it goes on serving those that it knows."""

    def encode_all(self, items: Sequence[NewItem]) -> Sequence[Encoded | ItemRefused]:
        """Refuse every item."""
        refused = ItemRefused(
            "item_id", "is not known to this model, which cannot place new items", "train a new model"
        )
        return [refused] * len(items)

    def placement(self, catalogue: Catalogue) -> Placer:
        """Nothing is placed, since nothing is encoded."""
        return self

    def place(self, latent: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
        """Refuse every item."""
        raise CatalogueFull("this model cannot place new items", "train a new model")


def open_coder(bundle: Bundle, settings: Settings) -> ItemCoder:
    """What gives new items of a version their codes.

    A bundle that an older release exported, or the fake engine, which comes without weights, only serves known items.
    """
    if settings.engine == "fake":
        return KnownItemsOnly()
    from model_store.new_items.item_encoder import ItemEncoder

    try:
        return ItemEncoder.open(bundle)
    except BundleRefused as refused:
        log.error("new_items_refused", version=bundle.version, cause=str(refused), hint=refused.hint)
        return KnownItemsOnly()


def as_trained(catalogue: Catalogue) -> Catalogue:
    """What the goldens were computed with, without items that came live; columns that no search reads stay whole."""
    if len(catalogue) == catalogue.trained:
        return catalogue
    trained = slice(catalogue.trained)
    return replace(
        catalogue,
        item_ids=PackedStrings.of(catalogue.item_ids).take(np.arange(catalogue.trained)),
        codes=catalogue.codes[trained],
        popularity=catalogue.popularity[trained],
        vectors=None if catalogue.vectors is None else catalogue.vectors[trained],
        is_hidden=np.zeros(catalogue.trained, dtype=np.bool_),
    )


def load_model(bundle: Bundle, catalogue: Catalogue, settings: Settings, opener: EngineOpener) -> LoadedModel:
    """Open the engine, make it ready for the catalogue and replay the goldens. Takes seconds: not for the event loop.

    Raises:
        BundleRefused: A file is damaged, or the engine does not answer the goldens as the exporter did.
    """
    engine = opener(bundle, settings)
    try:
        engine.bind(catalogue)
        rules = Rules(catalogue, settings.rule_cache_entries)
        model = LoadedModel(bundle.manifest, catalogue, engine, rules, bundle.transitions())
        replay_goldens(model, bundle.goldens())
        return model
    except BaseException:
        engine.close()
        raise


def replay_goldens(model: LoadedModel, goldens: Sequence[Golden]) -> None:
    """Ask the engine the goldens, one by one and all together, which also warms it up; compare unless it has no model.

    Raises:
        BundleRefused: It answers something else, or a golden names an item that the catalogue lacks.
    """
    asked = [_request(model, golden) for golden in goldens]
    alone = [answer for request in asked for answer in _answers(model, [request])]
    for answers in (alone, _answers(model, asked)):
        if model.engine.checks_goldens:
            compare(goldens, answers, reduced_precision=model.engine.reduced_precision)


def _request(model: LoadedModel, golden: Golden) -> SearchRequest:
    catalogue, beam_width = model.catalogue, model.manifest.config.beam_width
    missing = [item_id for item_id in golden.history if item_id not in catalogue.row_of]
    if missing:
        raise BundleRefused("golden.json: a history names an item that the catalogue lacks", "export the bundle again")
    return SearchRequest(
        history=np.array([catalogue.row_of[item_id] for item_id in golden.history], dtype=np.int64),
        k=len(golden.items),
        beam_width=beam_width,
        rule=catalogue.trie.everything,
        excluded=np.empty(0, dtype=np.int64),
        catalogue=catalogue,
        fusion=model.fusion(beam_width),
        transitions=model.transitions,
    )


def _answers(model: LoadedModel, requests: Sequence[SearchRequest]) -> list[Answer]:
    engine, catalogue = model.engine, model.catalogue
    outputs = engine.compute(engine.prepare(requests, catalogue), catalogue)
    return [
        Answer([catalogue.item_ids[row] for row in found.rows.tolist()], found.score.tolist(), found.log_prob.tolist())
        for found in engine.finish(outputs, requests, catalogue)
    ]
