"""A loaded model: the immutable parts of one version that answering needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, get_args

from model_store.bundle.manifest import Manifest
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.code_names import CodeNames
from model_store.new_items.features import says_something
from model_store.search.fusion import Fusion
from model_store.search.neighbours import Neighbours
from model_store.search.ranker import Ranker
from service.engines.base import BEAM_WIDTHS, Engine
from service.ranking.compiler import MAX_PARTS, RankingCompiler
from service.ranking.filters import RuleCompiler
from service.replication.replicated_catalogue import ReplicatedCatalogue

Part = Literal["item_encoder", "reduced_precision"]
"""Part of a version that it can answer without: new items are refused then, or the exact search answers."""

PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """Everything of one version that answering needs; immutable, so all parts switch together."""

    manifest: Manifest
    catalogue: Catalogue
    engine: Engine
    rules: RuleCompiler
    names: CodeNames
    """Names of code prefixes, as they were when the version was made."""
    neighbours: Neighbours | None = None
    """The neighbours of all items, if this version's answers use them."""
    ranker: Ranker | None = None
    """What corrects the dense scores of candidates, if this version has it."""
    replica: ReplicatedCatalogue | None = None
    """The catalogue with its place in the change stream; ``None`` for a catalogue as it was trained."""
    refused_parts: frozenset[Part] = frozenset()
    """Parts that this machine refuses, and without which the version answers nevertheless."""
    examples: Sequence[Sequence[str]] = ()
    """Histories of test users that the version brought along, item ids, oldest first."""

    @cached_property
    def rankings(self) -> RankingCompiler:
        """Compiler of boosts and pins for the catalogue; each takes as much memory as several filters."""
        return RankingCompiler(self.catalogue, self.rules, max(1, self.rules.entries // MAX_PARTS))

    @property
    def version(self) -> str:
        """Name of the version."""
        return self.manifest.version

    @property
    def revision(self) -> int:
        """Number of the newest change that ``catalogue`` contains."""
        return self.replica.at.revision if self.replica else 0

    @property
    def lineage(self) -> str:
        """Lineage of the catalogue: replicas that share it give the same answers at the same version and revision."""
        return self.replica.lineage if self.replica else ""

    def says_nothing(self, row: int) -> bool:
        """Tell whether the item in a row is a new one of which nothing can be read, so that it is like no other.

        A published item was placed with all that its version knew of it, and who supplies embeddings says it in these.
        """
        catalogue = self.catalogue
        if row < catalogue.trained or self.manifest.embedding_source == "user":
            return False
        return not says_something(catalogue.titles[row], catalogue.categories[row], catalogue.attributes[row])

    def with_catalogue(self, replica: ReplicatedCatalogue, rule_entries: int) -> LoadedModel:
        """Return the same model with a newer catalogue, ready to answer. Takes time: not for the event loop."""
        if replica.catalogue is self.catalogue:
            return replace(self, replica=replica)

        self.engine.bind(replica.catalogue)
        rules = RuleCompiler(replica.catalogue, rule_entries)
        return replace(self, catalogue=replica.catalogue, rules=rules, replica=replica)

    def beam_width(self, k: int) -> int:
        """Return the smallest shared beam width that serves k answers at the model's quality."""
        return beam_width_of(self.manifest, k)

    def fusion(self, beam_width: int) -> Fusion:
        """Return how dense scores enter answers of this beam width.

        There are as many dense candidates a beam as the weight was fitted with.
        """
        return fusion_of(self.manifest, beam_width)


def beam_width_of(manifest: Manifest, k: int) -> int:
    """Return the smallest shared beam width that serves k answers at a version's quality."""
    return _shared_beam_width(max(k, manifest.config.beam_width))


@lru_cache(maxsize=1024)
def _shared_beam_width(wanted: int) -> int:
    """Return the smallest shared beam width of at least so many beams, or the largest."""
    return next((width for width in BEAM_WIDTHS if width >= wanted), BEAM_WIDTHS[-1])


def fusion_of(manifest: Manifest, beam_width: int) -> Fusion:
    """Return a version's fusion for a beam width."""
    fitted = manifest.fusion
    candidates = math.ceil(fitted.candidates * beam_width / manifest.config.beam_width) if fitted.weight else 0
    # Every request asks for it and usually nothing differs: copying would cost more than everything else here.
    return fitted if fitted.candidates == candidates else fitted.model_copy(update={"candidates": candidates})
