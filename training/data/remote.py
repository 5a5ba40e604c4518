"""Sources that are not on this disk: queries of databases, and files behind URLs, fetched as streams.

A source is remote if it has a scheme (``postgresql://``, ``https://``, ``s3://``). Schemes that fsspec knows are files;
all others are databases, by SQLAlchemy's URLs. No message and no stored file shows a password: :func:`redacted` is the
only form of a URL that leaves this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import unquote

import fsspec
import polars as pl

from model_store.errors import ConfigError, DataError, DownloadError
from model_store.source_files.csv_lines import snippet
from training.data.readers import ReadOptions

Options = TypeVar("Options", bound=ReadOptions)

BATCH = 100_000
"""Rows that are held as Python objects at a time."""

_HIDDEN = "***"
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_USER_INFO = re.compile(r"^(?P<scheme>[^:/]+://)(?P<user>[^/?#]*?)(?::(?P<password>[^/?#]*))?@")
_ARGUMENT = re.compile(r"(?<=[?&])([^=&#]+)=([^&#]*)")
_SECRET = re.compile(r"pass|pwd|token|secret|key|sig|cred|auth", re.IGNORECASE)
_LONGEST_REASON = 200  # characters
_ANY_TIME = (datetime, date)


def is_remote(source: str) -> bool:
    """Return whether a source is a URL and not a path."""
    return bool(_URL.match(source))


def redacted(source: str) -> str:
    """Return a source without its secrets: passwords, and values of arguments that are named like one."""
    shown = _USER_INFO.sub(_without_password, source)
    return _ARGUMENT.sub(lambda found: f"{found[1]}={_HIDDEN if _SECRET.search(found[1]) else found[2]}", shown)


def _without_password(found: re.Match[str]) -> str:
    if found["password"] is not None:
        return f"{found['scheme']}{found['user']}:{_HIDDEN}@"
    # On the web, a name alone is often a token.
    return f"{found['scheme']}{_HIDDEN if found['scheme'].startswith('http') else found['user']}@"


def is_redacted(source: str) -> bool:
    """Return whether a source lacks the secrets that it once had, and so cannot be fetched."""
    return is_remote(source) and _HIDDEN in source


def is_database(source: str) -> bool:
    """Return whether a remote source is a database."""
    scheme = source.partition("://")[0].partition("+")[0].lower()
    return scheme not in fsspec.available_protocols()


def fetch(source: str, query: str, folder: Path, say: Callable[[str], None]) -> Path:
    """Bring a remote source into a folder, as a stream.

    Args:
        source: URL.
        query: SQL, if it is a database.
        folder: Existing folder.
        say: Called with one line of text.

    Returns:
        A Parquet file for a database, else the file or the folder of files behind the URL.

    Raises:
        ConfigError: The query is missing, or a package that this takes is not installed.
        DownloadError: The database or server refuses.
    """
    if is_redacted(source):
        raise ConfigError(
            f"{source} cannot be fetched: its password is not stored", "give the same command again, with the whole URL"
        )
    if is_database(source):
        return _run_query(source, query, folder, say)
    if query:
        raise ConfigError(f"--query goes with a database, and {redacted(source)} is a file", "leave --query out")
    return _download(source, folder, say)


def name_of(source: str) -> str:
    """Return a short name of a remote source: of the database, or of the file without its suffixes."""
    path = redacted(source).partition("://")[2].partition("?")[0].rstrip("/")
    name = path.rpartition("/")[2].partition(".")[0]
    return name if "@" not in name else "database"


def _download(source: str, folder: Path, say: Callable[[str], None]) -> Path:
    try:
        fs, path = fsspec.core.url_to_fs(source)
        target = folder / (path.partition("?")[0].rstrip("/").rpartition("/")[2] or "source")
        say(f"fetching {redacted(source)}")
        fs.get(path, str(target), recursive=fs.isdir(path))
    except ImportError as cause:
        raise ConfigError(f"{redacted(source)}: {cause}", "install the fsspec driver that it names") from cause
    except Exception as cause:
        raise _refused(source, cause, "check the address and that this machine may read it") from cause
    return target


def _run_query(source: str, query: str, folder: Path, say: Callable[[str], None]) -> Path:
    if not query:
        raise ConfigError(
            f"{redacted(source)} is a database, and the query is missing",
            "give it with --query 'select user_id, item_id, timestamp from …' (or --items-query for the items)",
        )
    sqlalchemy = _sqlalchemy()
    target = folder / f"{name_of(source) or 'database'}.parquet"
    rows = 0
    try:
        engine = sqlalchemy.create_engine(_with_installed_driver(source))
        options = {"stream_results": True, "max_row_buffer": BATCH}
        try:
            with engine.connect().execution_options(**options) as connection:
                result = connection.execute(sqlalchemy.text(query))
                rows = _write(tuple(result.keys()), result.partitions(BATCH), target)
        finally:
            engine.dispose()
    except ModuleNotFoundError as cause:
        raise ConfigError(
            f"{redacted(source)}: the driver {cause.name} is not installed", f"pip install {cause.name}"
        ) from cause
    except sqlalchemy.exc.NoSuchModuleError as cause:
        raise ConfigError(
            f"{redacted(source)}: neither a file system nor a database with that scheme is known here",
            "check the scheme, or install the package that brings it",
        ) from cause
    except sqlalchemy.exc.SQLAlchemyError as cause:
        raise _refused(source, getattr(cause, "orig", None) or cause, "check the URL and the query") from cause
    say(f"{redacted(source)}: {rows:,} rows fetched")
    return target


def _sqlalchemy() -> Any:
    """Return the package, which only databases need."""
    try:
        import_module("sqlalchemy.exc")
        return import_module("sqlalchemy")
    except ModuleNotFoundError as cause:
        raise ConfigError("databases need SQLAlchemy, which is not installed", "pip install 'etegrec[sql]'") from cause


def _with_installed_driver(source: str) -> str:
    """Name psycopg, which the extra ``sql`` brings, as the driver of ``postgresql://``."""
    for scheme in ("postgresql://", "postgres://"):
        if source.startswith(scheme):
            return f"postgresql+psycopg://{source.removeprefix(scheme)}"
    return source


def _write(columns: Sequence[str], batches: Iterator[Sequence[Sequence[Any]]], target: Path) -> int:
    """Write batches of rows to one Parquet file, in the types of the first batch; return the number of rows."""
    parts = target.with_suffix(".batches")
    parts.mkdir()
    schema: dict[str, Any] = {}
    rows = 0
    for number, batch in enumerate(batches):
        values = zip(*batch, strict=True)
        frame = pl.DataFrame([_series(name, column) for name, column in zip(columns, values, strict=True)])
        schema = schema or {name: pl.String if kind == pl.Null else kind for name, kind in frame.schema.items()}
        frame = _cast(frame, schema, rows)
        frame.write_parquet(parts / f"{number:06}.parquet")
        rows += len(frame)

    if rows:
        pl.scan_parquet(parts / "*.parquet").sink_parquet(target)
    else:
        pl.DataFrame(schema=dict.fromkeys(columns, pl.String)).write_parquet(target)
    return rows


def _series(name: str, values: Sequence[Any]) -> pl.Series:
    """Return a column of values as a database driver gives them; kinds that tables lack become text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {Decimal, int, float} and kinds & {Decimal, float}:
        values = [None if value is None else float(value) for value in values]
    elif not (len(kinds) <= 1 and kinds <= {str, int, bool, *_ANY_TIME, list}):
        values = [None if value is None else str(value) for value in values]
    return pl.Series(name, values, strict=False)


def _cast(frame: pl.DataFrame, schema: dict[str, Any], before: int) -> pl.DataFrame:
    """Return a batch in the types of the first one, of which ``before`` rows were read.

    Raises:
        DataError: A column has another type from here on.
    """
    for name, kind in frame.schema.items():
        wanted = schema[name]
        fits = kind in (wanted, pl.Null) or wanted == pl.String or (wanted.is_float() and kind.is_integer())
        if not fits:
            raise DataError(
                f"the column {name!r} of the query is {wanted} at first and {kind} after row {before:,}",
                f"give it one type in the query: CAST({name} AS …)",
            )
    return frame.cast(pl.Schema(schema))


def _refused(source: str, cause: BaseException, hint: str) -> DownloadError:
    """Return the error for a source that cannot be fetched, without its secrets."""
    reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
    found = _USER_INFO.match(source)
    secrets = [found["password"]] if found and found["password"] else []
    secrets += [value for name, value in _ARGUMENT.findall(source) if _SECRET.search(name)]
    for secret in filter(None, (*secrets, *map(unquote, secrets))):
        reason = reason.replace(secret, _HIDDEN)
    return DownloadError(f"{redacted(source)} cannot be fetched: {snippet(redacted(reason), _LONGEST_REASON)}", hint)


@contextmanager
def local_copies(
    source: str, options: Options, folder: Path, say: Callable[[str], None]
) -> Iterator[tuple[Path, Options]]:
    """Yield a source and options that name files on this disk; what is remote lies in ``folder`` meanwhile.

    Args:
        source: Path or URL.
        options: Their ``items_file`` may be a URL, too; with ``items_query`` alone, it is the source.
        folder: Folder for the copies.
        say: See :func:`fetch`.
    """
    items = options.items_file or (source if options.items_query else "")
    if options.items_query and not is_remote(items):
        raise ConfigError("--items-query needs a database", "give its URL with --items, or with --data")
    if options.query and not is_remote(source):
        raise ConfigError(
            f"--query needs a database, and {source} is a path", "give the URL of the database with --data"
        )
    if not is_remote(source) and not is_remote(items):
        yield Path(source), options
        return

    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="fetched-", dir=folder) as name:
        parts = [Path(name) / part for part in ("interactions", "items")]
        for part in parts:
            part.mkdir()
        path = fetch(source, options.query, parts[0], say) if is_remote(source) else Path(source)
        if is_remote(items):
            fetched = fetch(items, options.items_query, parts[1], say)
            options = options.model_copy(update={"items_file": str(fetched)})
        yield path, options
