"""The tree of all errors that this project raises on purpose.

Each class carries the exit code of the commands, so that scripts can tell causes apart; ``hint`` says what to do about
the error. The *model store* is the folder or bucket of bundles; the *store* holds histories, events and catalogue
changes, in Redis or in its embedded twin.

    EtegrecError
    ├── ConfigError          a setting or preset is wrong                         exit 3
    ├── DataError            input data cannot be used                            exit 4
    │   ├── DownloadError    a data set could not be fetched                      exit 4
    │   └── ItemRefused      the model cannot encode an item                      exit 4
    ├── CatalogueError       items or codes contradict each other                 exit 4
    │   └── CatalogueFull    no semantic ID is left for a new item                exit 4
    ├── ModelStoreError      the model store (bundles) failed                     exit 5
    │   ├── BundleRefused    a bundle fails its seal, format or self-check        exit 5
    │   │   ├── GraphRefused a graph does not run here, or answers differently    exit 5
    │   │   ├── SignatureRefused  no trusted key signed a bundle                  exit 5
    │   │   └── LoadTimeout  a bundle takes too long to load                      exit 5
    │   └── VersionNotFound  no such version, or no version is live               exit 6
    ├── CheckpointError      a run folder cannot be resumed                       exit 5
    ├── LockHeld             another process works in the same folder             exit 7
    ├── StoreError           the store (Redis or embedded) failed                 exit 8
    │   ├── StoreUnavailable it cannot be reached, or answers too late            exit 8
    │   │   └── StoreReadOnly it answers, but is full or takes no writes          exit 8
    │   └── StoreCorrupt     it holds a value that does not decode                exit 8
    └── BatchIncomplete      parts of a batch run failed, the others are done     exit 9
"""

from __future__ import annotations


class EtegrecError(Exception):
    """The root of all expected errors.

    Args:
        message: The cause, in one sentence that names the field or file.
        hint: What the reader can do about it; empty if there is nothing useful to say.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(EtegrecError):
    """A setting, preset or command-line value is wrong."""

    exit_code = 3


class DataError(EtegrecError):
    """Input data cannot be used as it is."""

    exit_code = 4


class DownloadError(DataError):
    """A data set could not be fetched, or the fetched file has a wrong checksum."""


class ItemRefused(DataError):
    """The model cannot encode an item; the message names the field."""

    def __init__(self, field: str, message: str, hint: str = "") -> None:
        super().__init__(f"{field}: {message}", hint)
        self.field = field
        self.advice = f"{message}; {hint}" if hint else message


class CatalogueError(EtegrecError):
    """Items and semantic IDs contradict each other."""

    exit_code = 4


class CatalogueFull(CatalogueError):
    """No semantic ID is left for a new item."""


class ModelStoreError(EtegrecError):
    """The model store, the folder or bucket of bundles, failed."""

    exit_code = 5


class BundleRefused(ModelStoreError):
    """A bundle fails its seal, its format or its self-check, and is not loaded."""


class GraphRefused(BundleRefused):
    """A graph cannot be run on this machine, or its answers are not those that the exporter got."""


class SignatureRefused(BundleRefused):
    """A bundle is not signed by a key that is trusted here."""


class LoadTimeout(BundleRefused):
    """A bundle was not loaded in the time that it may take."""


class VersionNotFound(ModelStoreError):
    """The model store has no such version, or no version is live."""

    exit_code = 6


class CheckpointError(EtegrecError):
    """A run folder cannot be resumed."""

    exit_code = 5


class LockHeld(EtegrecError):
    """Another process holds the lock of a folder that this work needs."""

    exit_code = 7


class StoreError(EtegrecError):
    """The store, Redis or its embedded twin, failed."""

    exit_code = 8


class StoreUnavailable(StoreError):
    """The store cannot be reached, refuses the write, or answers too late."""


class StoreReadOnly(StoreUnavailable):
    """The store answers, but refuses writes: its disk or its memory is full, or it is a read-only replica.

    Args:
        reason: The cause without any address or path, for answers that need no API key.
    """

    def __init__(self, message: str, hint: str = "", reason: str = "it refuses writes") -> None:
        super().__init__(message, hint)
        self.reason = reason


class StoreCorrupt(StoreError):
    """The store holds a value that does not decode."""


class BatchIncomplete(EtegrecError):
    """Parts of a batch run failed again and again; the others are done and stay."""

    exit_code = 9
