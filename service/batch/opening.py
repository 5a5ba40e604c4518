"""Opening of a run's model and catalogue in a process that computes shards."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import Trust
from model_store.errors import BundleRefused, DataError
from model_store.replication.snapshots import pack_arrays, unpack_arrays
from service.answers.trending import EventCounts, event_counts
from service.batch.plan import LiveCatalogue, Plan
from service.batch.run_folder import LIVE_CATALOGUE, RunFolder
from service.models.loaded_model import LoadedModel
from service.models.loading import KnownItemsOnly, as_trained, load_model, open_engine
from service.replication.catalogue_source import CatalogueSource
from service.replication.replicated_catalogue import ReplicatedCatalogue
from service.settings import Settings
from service.store.change_stream import Position, Snapshot


@dataclass(frozen=True)
class OpenedRun:
    """A run with its plan, bundle and catalogue, as they were when it began."""

    folder: RunFolder
    plan: Plan
    settings: Settings
    bundle: Bundle
    replica: ReplicatedCatalogue

    def open_model(self) -> LoadedModel:
        """Open the engine and prove it by the goldens, as the service does before it answers.

        Raises:
            BundleRefused: The version must not answer here.
        """
        model = load_model(self.bundle, as_trained(self.replica.catalogue), self.settings, open_engine)
        return model.with_catalogue(self.replica, self.settings.rule_cache_entries)

    def events(self) -> EventCounts | None:
        """Return the counts of events that the store had; ``None`` if there was no store."""
        if self.plan.live is None:
            return None
        counts = self.folder.read_counts()
        return event_counts(self.replica.catalogue, counts, self.settings.popular_prior_events)


def open_run(folder: RunFolder, plan: Plan) -> OpenedRun:
    """Open the version and the catalogue of a run.

    Raises:
        ModelStoreError: The model store has no such version any more, or it was exchanged.
        DataError: The catalogue that was read from the store is damaged.
    """
    settings = plan.settings()
    bundle = ModelStore(settings.store, trust=Trust.at(settings.trusted_keys_file)).bundle(plan.version)
    if bundle.manifest.digest != plan.digest:
        raise BundleRefused(f"version {plan.version} was exchanged since this run began", "begin another run")

    source = CatalogueSource(bundle, KnownItemsOnly())
    if plan.live is None:
        replica = ReplicatedCatalogue(source, bundle.catalogue())
    else:
        replica = _read_catalogue(folder, source, plan.live)
    return OpenedRun(folder, plan, settings, bundle, replica)


def keep_catalogue(folder: RunFolder, replica: ReplicatedCatalogue) -> LiveCatalogue:
    """Write a catalogue that was read from the store into the inputs of a run, for all processes of it."""
    snapshot = replica.to_snapshot()
    data = pack_arrays(snapshot.arrays)
    folder.write_input(LIVE_CATALOGUE, data)
    return LiveCatalogue(
        sha256=hashlib.sha256(data).hexdigest(),
        revision=snapshot.at.revision,
        nonce=snapshot.at.nonce,
        lineage=snapshot.lineage,
        origin=snapshot.origin,
    )


def _read_catalogue(folder: RunFolder, source: CatalogueSource, live: LiveCatalogue) -> ReplicatedCatalogue:
    path = folder.inputs / LIVE_CATALOGUE
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != live.sha256:
        raise DataError(f"{path} is not what this run wrote", "begin another run with another --out")

    snapshot = Snapshot(Position(live.revision, live.nonce), live.lineage, live.origin, unpack_arrays(data))
    return ReplicatedCatalogue.from_snapshot(source, snapshot, source.bundle.vectors())
