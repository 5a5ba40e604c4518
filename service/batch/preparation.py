"""Preparation of a batch run: checks what was asked, and writes the inputs of all shards and the plan."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import NamedTuple

import numpy as np

from model_store.attribution.keys import KEYS_VARIABLE, AttributionKeys
from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.bundle.signature import Trust
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import ConfigError, DataError
from service.attribution.key_ring import KeyRing
from service.batch.inputs import InputWriter
from service.batch.live_state import opened_store, read_catalogue, read_counts
from service.batch.opening import keep_catalogue
from service.batch.plan import Asked, LiveCatalogue, Plan
from service.batch.run_folder import RunFolder
from service.batch.users import NO_HISTORY, UserHistory, UsersFile, users_in_store, users_in_training
from service.catalogue.range_check import refuse_unknown_fields
from service.errors import InvalidFields, RequestError
from service.http.limits import check_limits
from service.placements import Placements
from service.ranking.checks import check_ranking
from service.ranking.filters import RuleCompiler, read_filter
from service.ranking.keys import RankingKey
from service.schemas.recommend import RecommendRequest
from service.settings import Settings
from service.store.base import Store
from service.store.client import StoreClient
from service.telemetry.telemetry import Telemetry


class _Written(NamedTuple):
    """Users whose inputs are written."""

    users: int
    notes: tuple[str, ...]


async def prepare(folder: RunFolder, asked: Asked, users: UsersFile | None, settings: Settings) -> Plan:
    """Write the inputs of all shards, then the plan, and return it.

    Args:
        folder: The folder of the run.
        asked: What was asked.
        users: The users file, if there is one.
        settings: Settings of the service, with the address of the store.

    Raises:
        ConfigError: The rules make no sense for the catalogue.
        DataError: Users or items cannot be used.
        ModelStoreError: The version cannot be opened, or has no histories.
        StoreError: The store is away, or answers too late.
        LockHeld: The service has the embedded store open.
    """
    bundle = ModelStore(settings.store, trust=Trust.at(settings.trusted_keys_file)).bundle(asked.version or None)
    folder.clear_inputs()

    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened_store(settings)) if asked.is_live else None
        if store is None:
            live = None
            catalogue = bundle.catalogue()
        else:
            live, catalogue = await _keep_live_state(folder, store, bundle, settings)

        request, placement_notes = await _place(asked, store, settings)
        notes = (*placement_notes, *check_rules(asked, request, catalogue))
        if asked.kind == "recommend" and not await _keep_key(folder, store, settings):
            request, key_notes = _without_key(request)
            notes = (*notes, *key_notes)
        if asked.kind == "similar":
            written = _Written(int(np.count_nonzero(~catalogue.is_hidden)), ())
        else:
            written = await _write_users(folder, asked, _users(asked, users, store, bundle), users)

    plan = Plan(
        asked=asked,
        request=request,
        version=bundle.version,
        digest=bundle.manifest.digest,
        rows=written.users,
        notes=(*notes, *written.notes),
        live=live,
        began_at=int(time.time()),
    )
    folder.begin(plan)
    return plan


async def _place(asked: Asked, store: Store | None, settings: Settings) -> tuple[RecommendRequest, tuple[str, ...]]:
    """Return what was asked for with the rules of its placement; and what people should know of them.

    Raises:
        ConfigError: The store has no such placement, or its rules exceed the limits.
        StoreError: The store is away, or answers too late.
    """
    placed = asked.request
    notes = []
    if store is not None and placed.placement is not None:
        placements = Placements(StoreClient(store, Telemetry(), settings.live_check_s), settings.deadline_ms / 1000)
        await placements.read()
        try:
            applied = await placements.apply(placed)  # without its experiment: that is for those who ask
            placed = applied.request
            used = applied.placement
            check_limits(placed, settings, "placement.")
        except RequestError as refused:
            raise ConfigError(str(refused), "correct --placement, or the placement itself") from refused
        notes += [f"placement {used['name']} at revision {used['revision']}"] if used else []

    if placed.exclude_shown is not None:
        notes.append("exclude_shown does not hold here: a batch run knows nothing of what was shown")
        placed = placed.model_copy(update={"exclude_shown": None})
    if placed.exploration is not None and asked.kind == "audience":
        notes.append("exploration does not hold here: an audience is who would see an item without chance")
        placed = placed.model_copy(update={"exploration": None})
    return placed, tuple(notes)


async def _keep_key(folder: RunFolder, store: Store | None, settings: Settings) -> bool:
    """Keep the key that signs the answers, that of the service, among the inputs; tell whether there is one.

    Raises:
        StoreError: The store that keeps it is away.
    """
    if store is None:
        keys = AttributionKeys.configured(settings.attribution_keys.get_secret_value(), settings.namespace)
    else:
        keys = await KeyRing(settings, store.counters).find()

    if keys is not None:
        folder.write_key(keys.signing)
    return keys is not None


def _without_key(request: RecommendRequest) -> tuple[RecommendRequest, tuple[str, ...]]:
    """Return what is asked for where nothing can be signed, and what people should know of it."""
    note = f"answers have no attribution: no key is known; set {KEYS_VARIABLE} or ETEGREC_REDIS_URL"
    if request.exploration is None:
        return request, (note,)
    unused = "exploration does not hold here: without attribution nothing could be learned from it"
    return request.model_copy(update={"exploration": None}), (note, unused)


def check_rules(asked: Asked, request: RecommendRequest, catalogue: Catalogue) -> tuple[str, ...]:
    """Check filter and items against the catalogue; return what people should know.

    Raises:
        ConfigError: The filter or a boost has a range over a field that holds no numbers, or a limit is for more codes
            than there are.
        DataError: An item whose audience is asked for is not in the catalogue, or hidden.
    """
    for item_id in asked.items:
        row = catalogue.row(item_id)
        if row is None or catalogue.is_hidden[row]:
            raise DataError(f"the catalogue has no visible item {item_id!r}", "correct --item")

    try:
        refuse_unknown_fields(request, catalogue.number_fields())
        check_ranking(RankingKey.of(request, now=0), catalogue.trie.levels, can_steer=True)
    except InvalidFields as refused:
        raise ConfigError(str(refused), "correct --filter, --rules or the placement") from refused

    if request.filter is None:
        return ()
    rule = read_filter(request.filter)
    notes = [f"{path} restricts nothing: no item is viewed here" for path in rule.ignored]
    if RuleCompiler(catalogue, entries=1).compile(rule.key).is_empty:
        notes.append("no item of the catalogue passes the filter: all answers are empty")
    return tuple(notes)


async def _keep_live_state(
    folder: RunFolder, store: Store, bundle: Bundle, settings: Settings
) -> tuple[LiveCatalogue, Catalogue]:
    replica = await read_catalogue(store, bundle, settings)
    folder.write_counts(await read_counts(store, settings))
    return keep_catalogue(folder, replica), replica.catalogue


async def _users(
    asked: Asked, users: UsersFile | None, store: Store | None, bundle: Bundle
) -> AsyncIterator[list[UserHistory | str]]:
    """Yield all users with their histories, or bare ids where a stored history does not decode."""
    if asked.histories == "store":
        assert users is not None
        assert store is not None
        async for chunk in users_in_store(store, users.user_ids()):
            yield chunk
        return

    for found in _users_without_store(asked, users, bundle):
        yield [*found]


def _users_without_store(asked: Asked, users: UsersFile | None, bundle: Bundle) -> Iterator[list[UserHistory]]:
    if asked.histories == "training":
        wanted = None if users is None else users.user_ids()
        return users_in_training(bundle, wanted, asked.settings["history_cap"])
    assert users is not None
    return users.histories(asked.settings["max_history_ids"])


async def _write_users(
    folder: RunFolder, asked: Asked, chunks: AsyncIterator[list[UserHistory | str]], users: UsersFile | None
) -> _Written:
    writer = InputWriter(folder, asked.shard_size)
    corrupt = 0
    async for chunk in chunks:
        writer.add([UserHistory(each, NO_HISTORY) if isinstance(each, str) else each for each in chunk])
        corrupt += sum(isinstance(each, str) for each in chunk)
    writer.close()
    if not writer.users:
        raise DataError(f"version {asked.version or 'live'} has histories of no user", "give users with --users")

    notes = []
    if corrupt:
        notes.append(f"{corrupt:,} stored histories do not decode: their users get popular items")
    if users is not None and users.cut:
        most = asked.settings["max_history_ids"]
        notes.append(f"{users.cut:,} histories were cut to their newest {most:,} items (ETEGREC_MAX_HISTORY_IDS)")
    return _Written(writer.users, tuple(notes))
