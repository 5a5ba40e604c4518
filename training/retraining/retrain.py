"""One pass of retraining: drain, train a candidate, compare it with the incumbent, publish, promote.

    drain events and items -> merge with the base data -> train a candidate -> compare -> publish and promote, or keep

The incumbent is the version that is live. Both rank the newest interaction of every user, which neither was trained on,
from the same histories, and both answer as they are served: fused if the fusion weight is above 0. New items, which
only the candidate was trained on, are added to the incumbent's catalogue first, as the service does. The candidate is
promoted if it is not worse. A report is written in any case.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey
from model_store.catalogue.catalogue import Catalogue, ItemPut
from model_store.durable_files import write_durably
from model_store.errors import CatalogueFull, GraphRefused, ItemRefused
from model_store.network.recommender import Recommender
from model_store.new_items.item_encoder import ItemEncoder
from model_store.replication.item_payload import NewItem
from training.config import TrainingConfig
from training.data.dataset import Dataset, Split
from training.data.prepare import open_or_prepare
from training.data.storage import save_dataset
from training.evaluation.full_ranking import search_split
from training.export.bundle import publish_run
from training.loop.progress import Progress
from training.pipeline import Pipeline
from training.retraining.drain_events import drain, read_drained
from training.retraining.drain_items import drain_items
from training.retraining.merged_data import MergedData, merge_data
from training.run_folder import RunFolder

GATE_METRIC = "ndcg@10"
"""Metric by which candidate and incumbent are compared."""


@dataclass(frozen=True)
class RetrainReport:
    """Result of one pass, with the reason.

    Attributes:
        promoted: Whether a new version is live now.
        reason: One sentence for people.
        version: The version that is live after the pass.
        events: Interactions drained so far that are part of the data.
        rejected: Drained events with items that the data do not have.
        new_items: Items that came after the base data and have enough interactions to be trained.
        changed_items: Items of the base data whose content has changed.
        candidate: Test metrics of the candidate; empty if none was trained.
        incumbent: Test metrics of the version that was live before; empty if there was none.
    """

    promoted: bool
    reason: str
    version: str | None
    events: int
    rejected: int
    new_items: int
    changed_items: int
    candidate: dict[str, float]
    incumbent: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class Comparison(NamedTuple):
    """Test metrics of a candidate and of the incumbent, which are empty if there is none."""

    candidate: dict[str, float]
    incumbent: dict[str, float]

    @property
    def is_accepted(self) -> bool:
        """True if the candidate is to be promoted: it is not worse, or there is no incumbent."""
        return not self.incumbent or self.candidate[GATE_METRIC] >= self.incumbent[GATE_METRIC]

    @property
    def reason(self) -> str:
        """The decision in one sentence."""
        if not self.incumbent:
            return f"promoted: the first model, {GATE_METRIC} {self.candidate[GATE_METRIC]:.4f}"
        verdict = "promoted: not worse" if self.is_accepted else "kept the incumbent: the candidate is worse"
        return f"{verdict}, {GATE_METRIC} {self.candidate[GATE_METRIC]:.4f} against {self.incumbent[GATE_METRIC]:.4f}"


class Retrainer:
    """Runner of retraining passes. After a kill, the next pass resumes where the killed one stopped.

    Args:
        source: Base data: ``ml-100k``, a file, a folder, or a prepared folder.
        config: Configuration that candidates are trained with.
        store: Model store with the incumbent; candidates are published in it.
        event_source: Redis URL or folder of the embedded event log.
        work: Folder that keeps drained events, run folders and reports between passes.
        progress: Display of what goes on.
        key: Signs the versions that are published, if given.

    Raises:
        ConfigError: The model store would refuse to promote what this key signs, or what nobody signs.
    """

    def __init__(
        self,
        source: str,
        config: TrainingConfig,
        store: ModelStore,
        event_source: str | Path,
        work: Path,
        progress: Progress,
        key: SigningKey | None = None,
    ) -> None:
        store.trust.check_publisher(key)  # not after hours of training
        self.source = source
        self.config = config
        self.store = store
        self.event_source = event_source
        self.work = work
        self.progress = progress
        self.key = key

    def run_once(self, force: bool = False) -> RetrainReport:
        """Run one pass.

        Args:
            force: Train a candidate even if nothing is new since the incumbent was trained.
        """
        data = self._drain()
        incumbent = self._load_incumbent()
        version = incumbent.manifest.version if incumbent else None

        if incumbent and not force and incumbent.manifest.data.fingerprint == data.dataset.fingerprint:
            report = _report(data, False, "no new interactions or items", version, Comparison({}, {}))
        else:
            candidate = self._train_candidate(data.dataset)
            comparison = _compare(candidate, incumbent, data.dataset)
            if comparison.is_accepted:
                version = publish_run(candidate, self.store, parent=version, key=self.key)
                self.store.promote(version)
            report = _report(data, comparison.is_accepted, comparison.reason, version, comparison)

        self._write(report)
        self.progress.say(report.reason)
        return report

    def _drain(self) -> MergedData:
        """Drain events and items, and merge everything drained so far with the base data."""
        drained = drain(self.event_source, self.work / "events")
        self.progress.say(f"drained {drained.events} events, {drained.rejected} did not decode")
        base = open_or_prepare(self.source, self.work / "base", self.config.data, self.progress.say, fetch_again=True)
        items = drain_items(self.event_source, self.work / "items")
        return merge_data(base, read_drained(self.work / "events"), items, self.config.data.min_item)

    def _load_incumbent(self) -> Bundle | None:
        version = self.store.live()
        return self.store.bundle(version) if version else None

    def _train_candidate(self, data: Dataset) -> Pipeline:
        """Return a finished run on the data; a run of the same data and configuration is resumed."""
        folder = self.work / "runs" / f"{data.fingerprint[:12]}-{self.config.key}"
        save_dataset(data, folder / "data")
        pipeline = Pipeline(RunFolder.create_or_resume(folder, self.config, str(folder / "data")), self.progress)
        pipeline.evaluate()
        return pipeline

    def _write(self, report: RetrainReport) -> None:
        # Microseconds, because a pass without work may end in the same second as another one.
        path = self.work / "reports" / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, (json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n").encode())


def _compare(candidate: Pipeline, incumbent: Bundle | None, data: Dataset) -> Comparison:
    metrics = candidate.evaluate().test["fused"]
    return Comparison(metrics, incumbent_metrics(incumbent, data) if incumbent else {})


def incumbent_metrics(bundle: Bundle, data: Dataset) -> dict[str, float]:
    """Return test metrics of a published model's answers on a data set that may have more items and users.

    Items that the model was not trained on are placed by their content, as the service does. Items that cannot be
    placed are removed from histories. A target that cannot be placed counts as missed, and so does the target of a
    user whose history becomes empty.
    """
    recommender = load_recommender(bundle)
    catalogue = served_catalogue(bundle, data)
    row = np.array([catalogue.row_of.get(item_id, -1) for item_id in data.item_ids], dtype=np.int64)

    split = data.test()
    histories = [known[known >= 0] for known in (row[history] for history in split.histories)]
    targets = row[split.targets]
    judged = np.flatnonzero([len(history) and target >= 0 for history, target in zip(histories, targets, strict=True)])
    part = Split([histories[user].astype(np.int32) for user in judged], targets[judged].astype(np.int32), judged)

    fusion = bundle.manifest.fusion
    found = search_split(
        recommender,
        catalogue.codes,
        part,
        bundle.config.beam_width,
        catalogue.vectors,
        fusion.candidates,
        transitions=bundle.transitions(),
    )
    return found.ranks(fusion).spread_over(len(targets), judged).summary()


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

    contents = [(data.titles[row], data.categories[row], data.attributes[row]) for row in missing]
    encoded = encoder.encode_all([NewItem(*content) for content in contents])

    places = encoder.placement(catalogue)
    puts = []
    for row, content, found in zip(missing, contents, encoded, strict=True):
        if isinstance(found, ItemRefused):
            continue  # the service refused it, too
        try:
            codes = places.place(found.latent)
        except CatalogueFull:
            continue  # the service had no room for it either
        puts.append(ItemPut(data.item_ids[row], *content, codes, found.vector))
    return catalogue.with_changes(puts)


def load_recommender(bundle: Bundle) -> Recommender:
    """Return the recommender of a published model, in evaluation mode on the CPU."""
    recommender = Recommender(bundle.config)
    prefix = "recommender."
    weights = {name: torch.from_numpy(np.array(value)) for name, value in bundle.weights().items()}
    recommender.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return recommender.eval()


def _report(
    data: MergedData, promoted: bool, reason: str, version: str | None, comparison: Comparison
) -> RetrainReport:
    return RetrainReport(
        promoted=promoted,
        reason=reason,
        version=version,
        events=data.accepted,
        rejected=data.rejected,
        new_items=data.new_items,
        changed_items=data.changed_items,
        candidate=comparison.candidate,
        incumbent=comparison.incumbent,
    )
