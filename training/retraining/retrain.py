"""One pass of retraining: drain, train a candidate, compare it with the incumbent, publish, promote.

    drain events and items -> merge with the base data -> anything new? -> train and export a candidate -> compare
    -> gate -> publish and promote, or publish and hold back for a person, or drop

The incumbent is the version that is live. Both are measured on the newest interaction of every user, which neither was
trained on (:mod:`training.retraining.figures`). The gate (:mod:`training.retraining.gate`) decides. What people decided
holds: the same data and settings are not trained again if the model that came of them was rolled back, held back or
replaced, and nothing is promoted if somebody changed the live version during the pass. A report is written in any case,
with metrics beside it, and a page (``gate.html`` in the report of the run and of the bundle) if a candidate was judged.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from model_store.bundle.bundle import Bundle
from model_store.bundle.manifest import Origin
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import SigningKey
from model_store.bundle.withheld import HELD_BACK, Withheld
from model_store.durable_files import write_durably
from model_store.errors import BundleRefused, VersionNotFound
from model_store.replication.redis_address import NO_TLS_FILES, TlsFiles
from model_store.replication.redis_keys import DEFAULT_PREFIX
from model_store.tracing.interface import NO_TRACING, Span, Tracing
from training.config import TrainingConfig
from training.data.dataset import Dataset
from training.data.prepare import open_or_prepare
from training.data.storage import save_dataset
from training.export.bundle import export_bundle, publish_run
from training.export.traced_graphs import TracedGraphs
from training.loop.progress import Progress
from training.pipeline import Pipeline
from training.report.notes import warnings
from training.retraining.drain_events import drain, read_drained
from training.retraining.drain_items import drain_items
from training.retraining.drift import Drift, measure_drift
from training.retraining.figures import Comparison, compare_models
from training.retraining.gate import Gate
from training.retraining.merged_data import MergedData, merge_data
from training.retraining.metrics import METRICS, write_metrics
from training.retraining.pass_report import Outcome, RetrainReport, pass_report, write_judgement
from training.retraining.served_model import exported_model, published_model
from training.retraining.warm_start import Start, WarmPipeline, find_start
from training.run_folder import RunFolder

RUNS = "runs"
"""Folder of the candidates' runs in the work folder."""

GRAPHS = "graphs"
"""Folder of the traced graphs in the work folder."""


class Retrainer:
    """Runner of retraining passes. After a kill, the next pass resumes where the killed one stopped.

    Args:
        source: Base data: ``ml-100k``, a file, a folder, or a prepared folder.
        config: Configuration that candidates are trained with, and the limits of the gate.
        store: Model store with the incumbent; candidates are published in it.
        event_source: Redis URL or folder of the embedded event log.
        work: Folder that keeps drained events, run folders and reports between passes.
        progress: Display of what goes on.
        key: Signs the versions that are published, if given.
        tracing: Keeps a span of each pass, which links to the requests that brought the events.
        prefix: Prefix of the Redis keys.
        tls: Files of a TLS connection to Redis.

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
        tracing: Tracing = NO_TRACING,
        *,
        prefix: str = DEFAULT_PREFIX,
        tls: TlsFiles = NO_TLS_FILES,
    ) -> None:
        store.trust.check_publisher(key)  # not after hours of training
        self.source = source
        self.config = config
        self.store = store
        self.event_source = event_source
        self.work = work
        self.progress = progress
        self.key = key
        self._prefix = prefix
        self._tls = tls
        self.tracing = tracing

    def run_once(self, force: bool = False) -> RetrainReport:
        """Run one pass.

        Args:
            force: Train a candidate even if nothing is new since the incumbent was trained.
        """
        with self.tracing.span("retrain") as span:
            report = self._run(force, span)
            span.set("etegrec.promoted", report.promoted)
            span.set("etegrec.model_version", report.version or "")
            span.set("etegrec.events", report.events)
        return report

    def _run(self, force: bool, span: Span) -> RetrainReport:
        data = self._drain(span)
        incumbent = self._load_incumbent()
        origin = Origin(data.dataset.fingerprint, self.config.fingerprint)

        if reason := self._reason_to_rest(origin, incumbent, force):
            outcome = Outcome(reason)
        else:
            outcome = self._train_and_judge(data.dataset, incumbent, origin)

        report = pass_report(data, outcome, self.store.live())
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
        """Train and judge a candidate; one that began from the live version and is dropped gets a second, full try."""
        start = self._find_start(data, incumbent)
        outcome = self._try(data, incumbent, origin, start)
        if start and outcome.gate and outcome.gate.verdict == "drop":
            self.progress.say(f"{outcome.reason}; training from scratch")
            outcome = self._try(data, incumbent, origin, None)
        return outcome

    def _try(self, data: Dataset, incumbent: Bundle | None, origin: Origin, start: Start | None) -> Outcome:
        with self.tracing.span("train"):
            candidate = self._train_candidate(data, start)
        evaluation = candidate.evaluate()
        with self.tracing.span("export"):
            export_bundle(candidate, TracedGraphs(self.work / GRAPHS))
        with self.tracing.span("judge"):
            compared, drift = compare(candidate, incumbent, data)
        judgement = Gate(self.config.gate, self.config.seed).judge(compared)

        version = incumbent.version if incumbent else None
        known = warnings(evaluation)
        if drift and version and (shifted := drift.warning(version)):
            known.append(shifted)
        outcome = Outcome(
            judgement.reason,
            candidate=evaluation.test["fused"],
            incumbent=compared.incumbent.metrics if compared.incumbent else {},
            warnings=known,
            started_from=start.version if start else None,
            gate=judgement,
            drift=drift,
            page=str(write_judgement(candidate, version, judgement, drift, known)),
        )
        match judgement.verdict:
            case "promote":
                with self.tracing.span("publish"):
                    return self._publish_and_promote(candidate, version, origin, outcome)
            case "hold back":
                with self.tracing.span("publish"):
                    return self._publish_and_hold_back(candidate, version, outcome)
            case "drop":
                kept = "kept the incumbent" if incumbent else "not published"
                return replace(outcome, reason=f"{kept}: {outcome.reason}")

    def _publish_and_promote(
        self, candidate: Pipeline, incumbent: str | None, origin: Origin, outcome: Outcome
    ) -> Outcome:
        """Publish and promote, unless somebody changed the live version while the candidate was trained."""
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
        self.store.create()
        with self.store.lock():
            version = publish_run(candidate, self.store, parent=incumbent, key=self.key)
            self.store.withhold(version, HELD_BACK, outcome.reason)
        reason = (
            f"held back: {outcome.reason}; `etegrec-models show {version}` and the report in it tell more, "
            f"`etegrec-models promote {version}` makes it live"
        )
        return replace(outcome, reason=reason, held_back=version)

    def _drain(self, span: Span) -> MergedData:
        """Drain events and items, and merge everything drained so far with the base data."""
        with self.tracing.span("drain"):
            drained = drain(self.event_source, self.work / "events", prefix=self._prefix, tls=self._tls)
        span.link(drained.traceparents)
        self.progress.say(f"drained {drained.events} events, {drained.rejected} did not decode")
        base = open_or_prepare(self.source, self.work / "base", self.config.data, self.progress.say, fetch_again=True)
        items = drain_items(self.event_source, self.work / "items", prefix=self._prefix, tls=self._tls)
        return merge_data(base, read_drained(self.work / "events"), items)

    def _load_incumbent(self) -> Bundle | None:
        version = self.store.live()
        if not version:
            return None
        bundle = self.store.bundle(version)
        bundle.neighbours()  # what this release cannot read is refused here, not after hours of training
        bundle.ranker()
        return bundle

    def _train_candidate(self, data: Dataset, start: Start | None) -> Pipeline:
        """Return a finished run on the data; a run of the same data, configuration and start is resumed."""
        config = self.config.of_run()
        name = f"{data.fingerprint[:12]}-{config.key}" + (f"-from-{start.version}" if start else "")
        folder = self.work / RUNS / name
        save_dataset(data, folder / "data")
        run = RunFolder.create_or_resume(folder, config, str(folder / "data"))
        pipeline = WarmPipeline(run, self.progress, start, self.config.warm) if start else Pipeline(run, self.progress)
        pipeline.evaluate()
        return pipeline

    def _find_start(self, data: Dataset, incumbent: Bundle | None) -> Start | None:
        """Return where a candidate begins, if that is wanted and the live version fits; say why if it does not."""
        if incumbent is None or not self.config.warm.start:
            return None
        found = find_start(incumbent, self.work / RUNS, self.config, data)
        if isinstance(found, str):
            self.progress.say(f"training from scratch: {found}")
            return None
        self.progress.say(f"training goes on from {found.version}")
        return found

    def _write(self, report: RetrainReport) -> None:
        # Microseconds, because a pass without work may end in the same second as another one.
        path = self.work / "reports" / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, (json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n").encode())
        write_metrics(report, self.work / METRICS)


def compare(candidate: Pipeline, incumbent: Bundle | None, data: Dataset) -> tuple[Comparison, Drift | None]:
    """Measure an exported candidate and the live version on the same users, and what moved since that was trained."""
    seed = candidate.config.seed
    if incumbent is None:
        return compare_models(exported_model(candidate, data), None, data, seed), None

    live = published_model(incumbent, data)
    trained_on = incumbent.manifest.data.counts.get("interactions", 0)
    drift = measure_drift(data, live, trained_on, incumbent.code_names(), seed)
    return compare_models(exported_model(candidate, data), live, data, seed), drift
