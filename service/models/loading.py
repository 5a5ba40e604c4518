"""Loading of one version: open its engine and its item encoder, then prove the engine by the bundle's goldens.

Torch and ONNX Runtime are imported only by the function that opens the engine in question: either may be absent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import structlog

from model_store.bundle.bundle import Bundle
from model_store.bundle.manifest import Manifest
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.packed import PackedStrings
from model_store.errors import CatalogueFull, ConfigError, GraphRefused, ItemRefused
from model_store.replication.item_payload import NewItem
from model_store.search.neighbours import ADDITION_SIZES
from service.engines.base import LARGEST_BATCH, Engine
from service.engines.buckets import CapturePlan, batch_sizes, history_lengths
from service.models.goldens import replay_goldens
from service.models.loaded_model import LoadedModel, beam_width_of, fusion_of
from service.ranking.filters import RuleCompiler
from service.replication.catalogue_source import Encoded, ItemCoder, Placer
from service.settings import Settings

EngineOpener = Callable[[Bundle, Settings], Engine]
CoderOpener = Callable[[Bundle, Settings], ItemCoder]

log = structlog.get_logger()


def load_model(bundle: Bundle, catalogue: Catalogue, settings: Settings, opener: EngineOpener) -> LoadedModel:
    """Open the engine, make it ready for the catalogue and replay the goldens. Takes seconds: not for the event loop.

    Reduced precision depends on the machine: where its answers differ too much, the version is served in fp32 instead.

    Raises:
        BundleRefused: A file is damaged, or the engine does not answer the goldens as the exporter did.
    """
    exact = settings.model_copy(update={"onnx_precision": "fp32", "torch_precision": "fp32"})
    try:
        return _load_and_prove(bundle, catalogue, settings, opener)
    except GraphRefused as refused:
        if exact == settings:
            raise
        log.warning("served_in_fp32", version=bundle.version, cause=str(refused), hint=refused.hint)
    return replace(_load_and_prove(bundle, catalogue, exact, opener), refused_parts=frozenset({"reduced_precision"}))


def _load_and_prove(bundle: Bundle, catalogue: Catalogue, settings: Settings, opener: EngineOpener) -> LoadedModel:
    engine = opener(bundle, settings)
    try:
        engine.bind(catalogue)
        rules = RuleCompiler(catalogue, settings.rule_cache_entries)
        goldens = bundle.goldens()
        model = LoadedModel(
            bundle.manifest,
            catalogue,
            engine,
            rules,
            bundle.code_names(),
            bundle.neighbours(),
            bundle.ranker(),
            examples=[golden.history for golden in goldens],
        )
        replay_goldens(model, goldens)
    except BaseException:
        engine.close()
        raise
    return model


def as_trained(catalogue: Catalogue) -> Catalogue:
    """Return the catalogue without new items, as the goldens were computed with it.

    Titles, categories and attributes stay whole: no search reads them.
    """
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


def open_engine(bundle: Bundle, settings: Settings) -> Engine:
    """Open the engine that the settings name.

    Raises:
        BundleRefused: The bundle's network or graph cannot be used.
        ConfigError: The engine is not installed.
    """
    if settings.engine == "fake":
        return _open_fake_engine(bundle)
    if settings.engine == "torch":
        return _open_torch_engine(bundle, settings)
    return _open_onnx_engine(bundle, settings)


def _open_fake_engine(bundle: Bundle) -> Engine:
    from service.engines.fake_engine import FakeEngine

    return FakeEngine(bundle.config.recommender.max_history)


def _open_onnx_engine(bundle: Bundle, settings: Settings) -> Engine:
    from service.engines.onnx_engine import EIGHT_BIT_GRAPH, GRAPH, OnnxEngine

    is_int8 = settings.onnx_precision == "int8" and EIGHT_BIT_GRAPH in bundle
    if settings.onnx_precision == "int8" and not is_int8:
        # The exporter left the graph out because its answers differed too much, or an older release exported the
        # bundle. A slower answer is better than none.
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
    """Return the shapes that nearly all batches have, for an engine that is made ready for a few shapes only."""
    beam_width = beam_width_of(manifest, k=1)
    lengths = history_lengths(manifest.config.recommender.max_history)
    fusion = fusion_of(manifest, beam_width)
    additions = ADDITION_SIZES[-1] if fusion.neighbours else 0
    return CapturePlan(batch_sizes(max_batch), lengths, beam_width, fusion.candidates, additions)


def open_coder(bundle: Bundle, settings: Settings) -> ItemCoder:
    """Open the encoder that gives a version's new items their codes.

    A bundle whose graphs this machine cannot run, one of an older release, or the fake engine, which comes without
    weights, serves known items only.

    Raises:
        BundleRefused: A file is damaged.
    """
    if settings.engine == "fake":
        return KnownItemsOnly()

    from model_store.new_items.item_encoder import ItemEncoder

    try:
        return ItemEncoder.open(bundle)
    except GraphRefused as refused:
        log.error("new_items_refused", version=bundle.version, cause=str(refused), hint=refused.hint)
        return KnownItemsOnly(is_refused=True)


class KnownItemsOnly:
    """Item coder of versions that cannot place new items: it refuses them, and the known items are served.

    Args:
        is_refused: Whether the version has an item encoder, which this machine refuses.
    """

    def __init__(self, is_refused: bool = False) -> None:
        self.is_refused = is_refused

    def encode_all(self, items: Sequence[NewItem]) -> Sequence[Encoded | ItemRefused]:
        """Refuse every item."""
        refused = ItemRefused(
            "item_id", "is not known to this model, which cannot place new items", "train a new model"
        )
        return [refused] * len(items)

    def placement(self, catalogue: Catalogue) -> Placer:
        """Return itself: no item is encoded, so none is placed."""
        return self

    def place(self, latent: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
        """Refuse every item."""
        raise CatalogueFull("this model cannot place new items", "train a new model")
