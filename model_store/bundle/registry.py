"""The model store: the registry of all versions of the model, and of the live one.

``LIVE`` names the live version, and those that were live before (:mod:`model_store.bundle.live_file`).
``withheld.json`` remembers versions that were rolled back or held back
(:mod:`model_store.bundle.withheld`): retraining and a further rollback leave them out until a person promotes them.
``aliases.json`` names versions that are loaded beside the live one (:mod:`model_store.bundle.aliases`). On a local disk
one writer at a time holds a lock; readers need none. A bucket has no lock: let only one process publish and promote
there. The folder may hold other things (``events/``); only versions are ever touched. A namespace has a folder of its
own inside, with its own versions, ``LIVE`` and lock (:mod:`model_store.namespace`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass

from model_store.bundle.aliases import CANDIDATE, DEFAULT_SHARE, Alias, AliasName, read_aliases, write_aliases
from model_store.bundle.bundle import Bundle, load_bundle
from model_store.bundle.live_file import read_live, write_live
from model_store.bundle.manifest import LIST_HINT, Origin
from model_store.bundle.signature import EVERYONE, SIGNATURE, SIGNATURE_LIMIT, SigningKey, Trust
from model_store.bundle.storage import Folder
from model_store.bundle.version_folders import STAGING_PREFIX, find_leftovers, remove_version, sealed_versions
from model_store.bundle.withheld import ROLLED_BACK, State, Withheld, read_withheld, write_withheld
from model_store.bundle.writer_lock import WriterLock
from model_store.durable_files import sync_folder
from model_store.errors import BundleRefused, ConfigError, ModelStoreError, VersionNotFound
from model_store.namespace import check_namespace, configured_namespace, place_of

STORE_ENV = "ETEGREC_STORE"
DEFAULT_STORE = "./models"


def default_store() -> str:
    """Return the URL of the model store if none is given: ``ETEGREC_STORE``, else ``./models``."""
    return os.environ.get(STORE_ENV) or DEFAULT_STORE


@dataclass(frozen=True)
class Collected:
    """The versions and leftovers that :meth:`ModelStore.gc` removed, and the versions that it kept."""

    removed: tuple[str, ...]
    leftovers: tuple[str, ...]
    kept: tuple[str, ...]


class ModelStore:
    """A folder of bundles, at a path or any fsspec URL.

    Args:
        url: Its place; :func:`default_store` if not given. It need not exist until something is published.
        lock_timeout_s: Longest time that a writer waits for another one.
        trust: Whose versions may be opened; :meth:`Trust.configured` if not given, so no command can forget it.
        namespace: Shop whose versions these are; :func:`configured_namespace` if not given. Empty: no namespace.

    Raises:
        ConfigError: The URL cannot be opened, or there can be no such namespace.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        lock_timeout_s: float = 10.0,
        trust: Trust | None = None,
        namespace: str | None = None,
    ) -> None:
        shop = configured_namespace() if namespace is None else check_namespace(namespace)
        self.url = place_of(shop, default_store() if url is None else os.fspath(url))
        self.trust = Trust.configured() if trust is None else trust
        self.root = Folder.at(self.url)
        self._lock = WriterLock(self.root.local, self.url, lock_timeout_s)

    def versions(self) -> list[str]:
        """List the sealed versions, oldest first (names begin with the time); damaged ones are listed, too."""
        return sealed_versions(self.root)

    def live(self) -> str | None:
        """Return the promoted version, the one to serve; ``None`` before the first promotion.

        Raises:
            ModelStoreError: ``LIVE`` is damaged.
        """
        return next(iter(read_live(self.root, self.url)), None)

    def previous(self) -> str | None:
        """Return the version that :meth:`rollback` would make live, ``None`` if there is none.

        It is the newest one that was live before, still exists and was not rolled back itself.
        """
        live, *before = read_live(self.root, self.url) or [""]
        usable = set(self.versions()) - {live, *self.withheld()}
        return next((version for version in before if version in usable), None)

    def live_before(self) -> list[str]:
        """List the versions that were live before the live one, newest first; some may have been removed since."""
        live, *before = read_live(self.root, self.url) or [""]
        return [version for version in dict.fromkeys(before) if version != live]

    def withheld(self) -> dict[str, Withheld]:
        """Return the versions that were rolled back or held back and not promoted since, by name, newest first.

        Raises:
            ModelStoreError: ``withheld.json`` is damaged.
        """
        return {one.version: one for one in read_withheld(self.root)}

    def aliases(self) -> dict[AliasName, Alias]:
        """Return the versions that are loaded beside the live one, by alias.

        Raises:
            ModelStoreError: ``aliases.json`` is damaged.
        """
        return read_aliases(self.root)

    def set_alias(self, name: AliasName, version: str, share: float = DEFAULT_SHARE) -> Alias:
        """Give a version an alias after verifying all of it; another one loses it. Services load it by themselves.

        Whether it was rolled back or held back stays as it is: only a promotion overrides that.

        Args:
            name: The alias.
            version: The version.
            share: Share of the traffic that it gets, 0 to 1.

        Raises:
            ConfigError: The share is wrong, or the version is live.
            VersionNotFound: There is no such version.
            BundleRefused: It is damaged, or not signed by a trusted key.
            LockHeld: Another process holds the lock.
        """
        alias = Alias.now(name, version, share)
        self.bundle(version)  # before the lock, so that a wrong name fails without waiting
        with self.lock():
            self.bundle(version).verify()
            if version == self.live():
                raise ConfigError(f"{version} is live, so it cannot be the {name} as well", "name another version")
            write_aliases(self.root, {**read_aliases(self.root), name: alias})
        return alias

    def remove_alias(self, name: AliasName) -> Alias | None:
        """Take an alias away, and return what it was; ``None`` if nothing had it.

        Raises:
            LockHeld: Another process holds the lock.
        """
        with self.lock():
            aliases = read_aliases(self.root)
            removed = aliases.pop(name, None)
            if removed is not None:
                write_aliases(self.root, aliases)
            return removed

    def end_canary(self, canary: Alias, reason: str) -> bool:
        """Take the alias ``candidate`` from a version that failed, and remember it as rolled back.

        Args:
            canary: The trial that failed.
            reason: Why, in a sentence for people.

        Returns:
            ``False`` if the alias names another trial by now; then nothing changes.

        Raises:
            ModelStoreError: The model store cannot be written.
        """
        with self.lock():
            aliases = read_aliases(self.root)
            if aliases.get(CANDIDATE) != canary:
                return False
            self.withhold(canary.version, ROLLED_BACK, reason)  # first: a kill in between must not forget it
            del aliases[CANDIDATE]
            write_aliases(self.root, aliases)
            return True

    def bundle(self, version: str | None = None) -> Bundle:
        """Open a version, by default the live one.

        Raises:
            VersionNotFound: There is no such version, or none is live.
            BundleRefused: It is damaged, or not signed by a trusted key.
        """
        return load_bundle(self.root, version or self._require_live(), self.trust)

    def sign(self, version: str, key: SigningKey) -> None:
        """Add a signature to a version, after verifying all of it; its signatures by other keys stay.

        It need not be signed by a trusted key before: whoever has the key vouches for what is there.

        Raises:
            VersionNotFound: There is no such version.
            BundleRefused: It is damaged.
            LockHeld: Another process holds the lock.
        """
        with self.lock():
            bundle = load_bundle(self.root, version, EVERYONE)
            bundle.verify()
            signatures = bundle.folder.read(SIGNATURE, limit=SIGNATURE_LIMIT)
            staging = self.root.child(f"{STAGING_PREFIX}{version}-{SIGNATURE}")
            bundle.folder.replace(SIGNATURE, key.sign(bundle.manifest.to_bytes(), signatures), staging)

    def promote(self, version: str) -> str | None:
        """Make a version live after verifying all of it; if it was rolled back or held back, that is forgotten.

        It loses its aliases: their trial is over.

        Returns:
            The version that was live before.

        Raises:
            VersionNotFound: There is no such version.
            BundleRefused: It is damaged, or not signed by a trusted key.
            LockHeld: Another process holds the lock.
        """
        self.bundle(version)  # before the lock, so that a wrong name fails without waiting
        with self.lock():
            self.bundle(version).verify()

            self._forget_aliases(version)
            history = read_live(self.root, self.url)
            live = next(iter(history), None)
            if version != live:
                write_live(self.root, [version, *history])
            self._forget_withheld(version)
            return live

    def rollback(self, reason: str = "") -> str:
        """Make the previously live version live again, after verifying it; a second call goes further back.

        The version that was live is remembered: retraining neither promotes it nor makes the same model again.

        Args:
            reason: Why, in a sentence for people.

        Returns:
            The version that is live now.

        Raises:
            VersionNotFound: No version was live before, or none of those is left.
            ConfigError: The reason is too long.
            BundleRefused: It is damaged, or not signed by a trusted key; promote another one.
        """
        self._require_live()
        with self.lock():
            rejected = self._require_live()
            target = self.previous()
            if target is None:
                raise VersionNotFound(
                    f"there is nothing to roll back to: no version that was live before {rejected} is left",
                    "`etegrec-models promote` makes any listed version live",
                )
            self.bundle(target).verify()

            self.withhold(rejected, ROLLED_BACK, reason)  # first: a kill in between must not forget it
            self._forget_aliases(target)
            history = read_live(self.root, self.url)
            write_live(self.root, history[history.index(target, 1) :])
            return target

    def withhold(self, version: str, state: State, reason: str) -> None:
        """Remember that a version must not be promoted or made again by retraining, until a person promotes it.

        Raises:
            ConfigError: The reason is too long.
            LockHeld: Another process holds the lock.
        """
        with self.lock():
            added = Withheld.now(version, state, reason, self._origin(version))
            others = tuple(one for one in read_withheld(self.root) if one.version != version)
            write_withheld(self.root, (added, *others))

    def gc(
        self,
        keep: int = 5,
        pinned: Collection[str] = (),
        leftovers_older_than_s: float = 86_400.0,
        dry_run: bool = False,
    ) -> Collected:
        """Remove old versions, and the leftovers of killed publishers and killed collections.

        The live version, the one to roll back to, those with an alias, pinned ones and the ``keep`` newest are never
        removed.

        Raises:
            VersionNotFound: A pinned version does not exist.
            ModelStoreError: ``LIVE`` or ``aliases.json`` cannot be read, so it is unknown which versions must stay.
        """
        if keep < 0:
            raise ConfigError(f"keep is {keep}, it must be at least 0", "choose how many of the newest versions stay")
        if not self.root.entries():
            return Collected((), (), ())

        with self.lock():
            versions = self.versions()
            unknown = set(pinned) - set(versions)
            if unknown:
                raise VersionNotFound(f"the pinned version {min(unknown)} is not in the model store", LIST_HINT)

            newest = versions[max(0, len(versions) - keep) :]
            aliased = {alias.version for alias in self.aliases().values()}
            must_stay = {self.live(), self.previous(), *aliased, *pinned, *newest}
            removed = tuple(version for version in versions if version not in must_stay)
            kept = tuple(version for version in versions if version in must_stay)
            leftovers = tuple(find_leftovers(self.root, leftovers_older_than_s))

            if not dry_run:
                for name in (*removed, *leftovers):
                    remove_version(self.root, name)
            return Collected(removed, leftovers, kept)

    def require(self) -> None:
        """Refuse a local model store whose folder does not exist: its name is probably mistyped.

        Raises:
            ModelStoreError: It does not exist; the message names a folder beside it with a similar name.
        """
        local = self.root.local
        if local is None or local.is_dir():
            return
        beside = [each.name for each in local.parent.iterdir() if each.is_dir()] if local.parent.is_dir() else []
        close = difflib.get_close_matches(local.name, beside, n=1)
        question = f" (did you mean {local.parent / close[0]}?)" if close else ""
        raise ModelStoreError(
            f"the model store {self.url} does not exist{question}",
            "check the path; `etegrec-train publish RUN --store PATH --create-store` begins a new one",
        )

    def create(self) -> None:
        """Create the folder of a local model store if it does not exist."""
        local = self.root.local
        if local is None or local.is_dir():
            return
        try:
            local.mkdir(parents=True, exist_ok=True)
            sync_folder(local.parent)
        except OSError as cause:
            raise ModelStoreError(
                f"cannot create the model store {self.url}: {cause.strerror}", "choose another path"
            ) from cause

    def lock(self) -> AbstractContextManager[None]:
        """Lock the model store for writing; may be nested in one thread. Does nothing if it is not on a local disk.

        Raises:
            LockHeld: Another writer did not finish in time.
        """
        return self._lock.held()

    def _forget_withheld(self, version: str) -> None:
        before = read_withheld(self.root)
        after = tuple(one for one in before if one.version != version)
        if after != before:
            write_withheld(self.root, after)

    def _forget_aliases(self, version: str) -> None:
        before = read_aliases(self.root)
        after = {name: alias for name, alias in before.items() if alias.version != version}
        if after != before:
            write_aliases(self.root, after)

    def _origin(self, version: str) -> Origin | None:
        """Return the data and settings of a version; ``None`` if it is gone, damaged or not trusted."""
        try:
            return self.bundle(version).manifest.origin
        except (VersionNotFound, BundleRefused):
            return None

    def _require_live(self) -> str:
        live = self.live()
        if live is None:
            raise VersionNotFound(
                f"no version is live in the model store {self.url}", "publish one, then `etegrec-models promote` it"
            )
        return live
