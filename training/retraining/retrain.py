"""One pass of retraining: drain events, train a candidate, compare it with the incumbent, promote if it is not worse.

    events, live items -> Parquet -> base data joined by them -> candidate -> gate on the same held-out interactions
        -> promote or keep

A report is written either way. Candidate and incumbent rank the newest interaction of every user, which neither was
trained on, from the same histories, each as it is served: fused where its fusion weight is above 0, and the incumbent
with the items that came live, which the candidate was trained on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue, ItemPut
from model_store.durable_files import write_durably
from model_store.errors import BundleRefused, CatalogueFull, ItemRefused
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
from training.retraining.merged_data import Joined, joined
from training.run_folder import RunFolder

GATE_METRIC = "ndcg@10"


@dataclass(frozen=True)
class RetrainReport:
    """What one pass did, and why.

    Attributes:
        promoted: Whether a new version is live now.
        reason: One sentence for people.
        version: The version that is live after the pass.
        events: Interactions drained so far that the data set took.
        rejected: Drained events of items that the data set does not know.
        new_items: Items that came live and were interacted with often enough to be trained.
        changed_items: Items of the base data whose content was changed live.
        candidate: Test metrics of the new model; empty if none was trained.
        incumbent: The same of the model that was live; empty if there was none.
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
        """Plain values."""
        return asdict(self)


class Retrainer:
    """Everything that a pass needs; a pass may be repeated, and goes on where a killed one stopped.

    Args:
        source: Base data: ``ml-100k``, a file, a folder, or a prepared folder.
        config: How candidates are trained.
        store: Where the incumbent is and candidates go.
        event_source: Redis URL or folder of the embedded event log.
        work: Keeps drained events, run folders and reports between passes.
        progress: Shows what goes on.
    """

    def __init__(
        self,
        source: str,
        config: TrainingConfig,
        store: ModelStore,
        event_source: str | Path,
        work: Path,
        progress: Progress,
    ) -> None:
        self.source, self.config, self.store = source, config, store
        self.event_source, self.work, self.progress = event_source, work, progress

    def run_once(self, force: bool = False) -> RetrainReport:
        """One pass.

        Args:
            force: Train a candidate even if no new interaction came since the incumbent was trained.
        """
        drained = drain(self.event_source, self.work / "events")
        self.progress.say(f"drained {drained.events} events, {drained.rejected} did not decode")
        base = open_or_prepare(self.source, self.work / "base", self.config.data, self.progress.say)
        items = drain_items(self.event_source, self.work / "items")
        data = joined(base, read_drained(self.work / "events"), items, self.config.data.min_item)
        live = self.store.live()
        incumbent = self.store.bundle(live) if live else None
        if incumbent and not force and incumbent.manifest.data.fingerprint == data.dataset.fingerprint:
            report = _report(data, False, "no new interactions or items", live, {}, {})
        else:
            report = self._train_and_judge(data, incumbent)
        self._keep(report)
        self.progress.say(report.reason)
        return report

    def _keep(self, report: RetrainReport) -> None:
        # Microseconds: a pass that finds nothing to do may end in the second in which another ended.
        path = self.work / "reports" / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, (json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n").encode())

    def _train_and_judge(self, data: Joined, incumbent: Bundle | None) -> RetrainReport:
        folder = self.work / "runs" / f"{data.dataset.fingerprint[:12]}-{self.config.key}"
        save_dataset(data.dataset, folder / "data")
        run = RunFolder.create_or_resume(folder, self.config, str(folder / "data"))
        pipeline = Pipeline(run, self.progress)
        candidate = pipeline.evaluate().test["fused"]
        rival = incumbent_metrics(incumbent, data.dataset) if incumbent else {}
        live = incumbent.manifest.version if incumbent else None
        promoted = not rival or candidate[GATE_METRIC] >= rival[GATE_METRIC]
        if promoted:
            live = publish_run(pipeline, self.store, parent=live)
            self.store.promote(live)
        return _report(data, promoted, _reason(promoted, candidate, rival), live, candidate, rival)


def incumbent_metrics(bundle: Bundle, data: Dataset) -> dict[str, float]:
    """Test metrics of a published model's answers on a data set that may know further items and users.

    Items that the model was not trained on are placed by their content, as the service does. Those that it cannot place
    leave the histories; such a target counts as missed, and so does a user of whom nothing is left.
    """
    recommender = load_recommender(bundle)
    catalogue = served_catalogue(bundle, data)
    row = np.array([catalogue.row_of.get(item_id, -1) for item_id in data.item_ids], dtype=np.int64)
    split = data.test()
    histories = [known[known >= 0] for known in (row[history] for history in split.histories)]
    targets = row[split.targets]
    judged = np.flatnonzero([len(history) and target >= 0 for history, target in zip(histories, targets, strict=True)])
    part = Split([histories[user].astype(np.int32) for user in judged], targets[judged].astype(np.int32), judged)
    width, fusion = bundle.config.beam_width, bundle.manifest.fusion
    found = search_split(
        recommender,
        catalogue.codes,
        part,
        width,
        catalogue.vectors,
        fusion.candidates,
        transitions=bundle.transitions(),
    )
    return found.ranks(fusion).spread_over(len(targets), judged).summary()


def served_catalogue(bundle: Bundle, data: Dataset) -> Catalogue:
    """The catalogue of a published model after the items of a data set that it lacks came live."""
    catalogue = bundle.catalogue()
    missing = [row for row, item_id in enumerate(data.item_ids) if item_id not in catalogue.row_of]
    if not missing:
        return catalogue
    try:
        encoder = ItemEncoder.open(bundle)
    except BundleRefused:
        return catalogue  # an older release exported it: it is served without new items
    contents = [(data.titles[row], data.categories[row], data.attributes[row]) for row in missing]
    encoded = encoder.encode_all([NewItem(*content) for content in contents])
    places, puts = encoder.placement(catalogue), []
    for row, content, found in zip(missing, contents, encoded, strict=True):
        if isinstance(found, ItemRefused):
            continue  # it was not served either
        try:
            codes = places.place(found.latent)
        except CatalogueFull:
            continue
        puts.append(ItemPut(data.item_ids[row], *content, codes, found.vector))
    return catalogue.with_changes(puts)


def load_recommender(bundle: Bundle) -> Recommender:
    """The recommender of a published model, in evaluation mode on the CPU."""
    recommender = Recommender(bundle.config)
    prefix = "recommender."
    weights = {name: torch.from_numpy(np.array(value)) for name, value in bundle.weights().items()}
    recommender.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return recommender.eval()


def _report(
    data: Joined,
    promoted: bool,
    reason: str,
    live: str | None,
    candidate: dict[str, float],
    incumbent: dict[str, float],
) -> RetrainReport:
    return RetrainReport(
        promoted=promoted,
        reason=reason,
        version=live,
        events=data.accepted,
        rejected=data.rejected,
        new_items=data.new_items,
        changed_items=data.changed_items,
        candidate=candidate,
        incumbent=incumbent,
    )


def _reason(promoted: bool, candidate: dict[str, float], incumbent: dict[str, float]) -> str:
    if not incumbent:
        return f"promoted: the first model, {GATE_METRIC} {candidate[GATE_METRIC]:.4f}"
    verdict = "promoted: not worse" if promoted else "kept the incumbent: the candidate is worse"
    return f"{verdict}, {GATE_METRIC} {candidate[GATE_METRIC]:.4f} against {incumbent[GATE_METRIC]:.4f}"
