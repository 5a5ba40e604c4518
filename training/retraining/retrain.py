"""One pass of retraining: drain, train a candidate, compare it with the incumbent, publish, promote.

    drain events and items -> merge with the base data -> anything new? -> train a candidate -> compare -> gate
    -> publish and promote, or publish and hold back for a person, or drop

The incumbent is the version that is live. Both rank the newest interaction of every user, which neither was trained on,
from the same histories, and both answer as they are served: fused if the fusion weight is above 0. New items, which
only the candidate was trained on, are added to the incumbent's catalogue first, as the service does. The gate
(:mod:`training.retraining.gate`) decides. What people decided holds: the same data and settings are not trained again
if the model that came of them was rolled back, held back or replaced, and nothing is promoted if somebody changed the
live version during the pass. A report is written in any case.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_store.bundle.bundle import Bundle
from model_store.bundle.manifest import Origin
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey
from model_store.bundle.withheld import HELD_BACK, Withheld
from model_store.catalogue.catalogue import Catalogue
from model_store.durable_files import write_durably
from model_store.errors import BundleRefused, GraphRefused, VersionNotFound
from model_store.network.recommender import Recommender
from model_store.new_items.item_encoder import ItemEncoder
from model_store.new_items.placed_items import place_items
from model_store.replication.item_payload import ItemContent
from training.config import TrainingConfig
from training.data.dataset import Dataset, Split
from training.data.prepare import open_or_prepare
from training.data.storage import save_dataset
from training.evaluation.full_ranking import search_split
from training.export.bundle import export_bundle, publish_run
from training.loop.progress import Progress
from training.pipeline import Pipeline
from training.report.notes import warnings
from training.retraining.drain_events import drain, read_drained
from training.retraining.drain_items import drain_items
from training.retraining.gate import Gate
from training.retraining.merged_data import MergedData, merge_data
from training.run_folder import RunFolder


@dataclass(frozen=True)
class RetrainReport:
    """Result of one pass, with the reason.

    Attributes:
        promoted: Whether a new version is live now.
        reason: One sentence for people.
        version: The version that is live after the pass.
        held_back: The version that was published and waits for a person, because its gain is implausible.
        events: Interactions drained so far that are part of the data.
        rejected: The other drained events by reason: "unknown item", "duplicate", or "below the filters", which are
            kept until their user and item have enough.
        new_items: Items that the base data alone would not train and that have enough interactions now.
        changed_items: Items of the base data whose content has changed.
        candidate: Test metrics of the candidate; empty if none was trained.
        incumbent: Test metrics of the version that was live before; empty if there was none.
        warnings: What a person must know about the candidate, such as that popularity is as good.
    """

    promoted: bool
    reason: str
    version: str | None
    held_back: str | None
    events: int
    rejected: dict[str, int]
    new_items: int
    changed_items: int
    candidate: dict[str, float]
    incumbent: dict[str, float]
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """What a pass came to; see the attributes of the same names of :class:`RetrainReport`."""

    reason: str
    promoted: str | None = None
    held_back: str | None = None
    candidate: dict[str, float] = field(default_factory=dict)
    incumbent: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


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
        gate: Decides which candidates are promoted.

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
        gate: Gate | None = None,
    ) -> None:
        store.trust.check_publisher(key)  # not after hours of training
        self.source = source
        self.config = config
        self.store = store
        self.event_source = event_source
        self.work = work
        self.progress = progress
        self.key = key
        self.gate = gate or Gate()

    def run_once(self, force: bool = False) -> RetrainReport:
        """Run one pass.

        Args:
            force: Train a candidate even if nothing is new since the incumbent was trained.
        """
        data = self._drain()
        incumbent = self._load_incumbent()
        origin = Origin(data.dataset.fingerprint, self.config.fingerprint)

        if reason := self._reason_to_rest(origin, incumbent, force):
            outcome = Outcome(reason)
        else:
            outcome = self._train_and_judge(data.dataset, incumbent, origin)

        report = _report(data, outcome, self.store.live())
        self._write(report)
        return report

    def _reason_to_rest(self, origin: Origin, incumbent: Bundle | None, force: bool) -> str:
        """Return why a model of these data and settings is not trained; empty if it is."""
        if incumbent and incumbent.manifest.origin.matches(origin):
            return "" if force else f"no new interactions, items or settings since {incumbent.version} was trained"

        if rejected := self._find_withheld(origin):
            return (
                f"not trained: {rejected.version} came from the same data and settings and was {rejected.words}; new "
                f"data or settings are trained again, and `etegrec-models promote {rejected.version}` overrides this"
            )
        if incumbent and (replaced := self._find_live_before(origin)):
            return (
                f"not trained: {replaced} came from the same data and settings and was live before "
                f"{incumbent.version}; `etegrec-models promote {replaced}` brings it back"
            )
        return ""

    def _find_withheld(self, origin: Origin) -> Withheld | None:
        return next((one for one in self.store.withheld().values() if one.is_from(origin)), None)

    def _find_live_before(self, origin: Origin) -> str | None:
        """Return the newest version of these data and settings that was live, and was replaced by another one."""
        for version in self.store.live_before():
            try:
                if self.store.bundle(version).manifest.origin.matches(origin):
                    return version
            except (VersionNotFound, BundleRefused):
                continue  # it was removed, or is of no use any more
        return None

    def _train_and_judge(self, data: Dataset, incumbent: Bundle | None, origin: Origin) -> Outcome:
        candidate = self._train_candidate(data)
        evaluation = candidate.evaluate()
        new = evaluation.test["fused"]
        old = incumbent_metrics(incumbent, data) if incumbent else {}
        decision = self.gate.judge(new, old)
        outcome = Outcome(decision.reason, candidate=new, incumbent=old, warnings=warnings(evaluation))

        version = incumbent.version if incumbent else None
        match decision.verdict:
            case "promote":
                return self._publish_and_promote(candidate, version, origin, outcome)
            case "hold back":
                return self._publish_and_hold_back(candidate, version, outcome)
            case "drop":
                return replace(outcome, reason=f"kept the incumbent: {outcome.reason}")

    def _publish_and_promote(
        self, candidate: Pipeline, incumbent: str | None, origin: Origin, outcome: Outcome
    ) -> Outcome:
        """Publish and promote, unless somebody changed the live version while the candidate was trained."""
        export_bundle(candidate)  # takes long, and nobody should wait for the lock meanwhile
        self.store.create()
        with self.store.lock():
            live = self.store.live()
            if live != incumbent:
                changed = f"the live version changed from {incumbent or 'none'} to {live or 'none'} during the pass"
                return replace(outcome, reason=f"not promoted: {changed}; the next pass compares again")
            if rejected := self._find_withheld(origin):
                return replace(outcome, reason=f"not promoted: {rejected.version} is the same and was {rejected.words}")

            version = publish_run(candidate, self.store, parent=incumbent, key=self.key)
            self.store.promote(version)
        return replace(outcome, reason=f"promoted: {outcome.reason}", promoted=version)

    def _publish_and_hold_back(self, candidate: Pipeline, incumbent: str | None, outcome: Outcome) -> Outcome:
        """Publish for a person to look at, and remember why it is not promoted."""
        export_bundle(candidate)
        self.store.create()
        with self.store.lock():
            version = publish_run(candidate, self.store, parent=incumbent, key=self.key)
            self.store.withhold(version, HELD_BACK, outcome.reason)
        reason = (
            f"held back: {outcome.reason}; `etegrec-models show {version}` and the report in it tell more, "
            f"`etegrec-models promote {version}` makes it live"
        )
        return replace(outcome, reason=reason, held_back=version)

    def _drain(self) -> MergedData:
        """Drain events and items, and merge everything drained so far with the base data."""
        drained = drain(self.event_source, self.work / "events")
        self.progress.say(f"drained {drained.events} events, {drained.rejected} did not decode")
        base = open_or_prepare(self.source, self.work / "base", self.config.data, self.progress.say, fetch_again=True)
        items = drain_items(self.event_source, self.work / "items")
        return merge_data(base, read_drained(self.work / "events"), items)

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


def incumbent_metrics(bundle: Bundle, data: Dataset) -> dict[str, float]:
    """Return test metrics of a published model's answers on a data set that may have more items and users.

    Items that the model was not trained on are placed by their content, as the service does. Items that cannot be
    placed are removed from histories. A target that cannot be placed counts as missed, and so does the target of a
    user whose history becomes empty. Only the items of the data set are ranked, as for a candidate.
    """
    recommender = load_recommender(bundle)
    catalogue = served_catalogue(bundle, data)
    found_rows = catalogue.row_of.find(data.item_ids)
    ranked = np.unique(found_rows[found_rows >= 0])
    row = np.where(found_rows >= 0, np.searchsorted(ranked, found_rows), -1)

    split = data.test()
    histories = [known[known >= 0] for known in (row[history] for history in split.histories)]
    targets = row[split.targets]
    judged = np.flatnonzero([len(history) and target >= 0 for history, target in zip(histories, targets, strict=True)])
    part = Split([histories[user].astype(np.int32) for user in judged], targets[judged].astype(np.int32), judged)

    fusion = bundle.manifest.fusion
    neighbours = bundle.neighbours()
    found = search_split(
        recommender,
        catalogue.codes[ranked],
        part,
        bundle.config.beam_width,
        None if catalogue.vectors is None else catalogue.vectors[ranked],
        fusion.candidates,
        neighbours=None if neighbours is None else neighbours.for_rows(ranked),
        neighbours_weight=fusion.neighbours,
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


def _report(data: MergedData, outcome: Outcome, live: str | None) -> RetrainReport:
    return RetrainReport(
        promoted=outcome.promoted is not None,
        reason=outcome.reason,
        version=live,
        held_back=outcome.held_back,
        events=data.accepted,
        rejected=data.rejected,
        new_items=data.new_items,
        changed_items=data.changed_items,
        candidate=outcome.candidate,
        incumbent=outcome.incumbent,
        warnings=outcome.warnings,
    )
