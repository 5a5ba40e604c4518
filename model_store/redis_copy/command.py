"""The command ``etegrec-models copy-redis``."""

from __future__ import annotations

from typing import Annotated

import typer

from model_store.console import print_json, say
from model_store.namespace import check_namespace, configured_namespace
from model_store.redis_copy.copying import Side, copy_store
from model_store.replication.redis_address import NO_TLS_FILES, TlsFiles, redis_place
from model_store.replication.redis_keys import keys_at, prefix_of
from model_store.replication.redis_reader import reading_redis

SOURCE_ENV = "ETEGREC_REDIS_URL"
TARGET_ENV = "ETEGREC_TARGET_REDIS_URL"


def copy_redis(
    source: Annotated[str, typer.Option("--from", envvar=SOURCE_ENV, help="Redis that has the store.")],
    target: Annotated[str, typer.Option("--to", envvar=TARGET_ENV, help="Redis that gets the copy.")],
    from_namespace: Annotated[
        str | None, typer.Option(help="Namespace of the store.", show_default="ETEGREC_NAMESPACE")
    ] = None,
    to_namespace: Annotated[
        str | None, typer.Option(help='Namespace of the copy; "" for none.', show_default="that of the store")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")] = False,
) -> None:
    """Copy users, events, items, rules and counters to another Redis, or under another namespace.

    Stop all services and etegrec-ingest before. A copy that was broken off goes on when the command is repeated.
    """
    old = configured_namespace() if from_namespace is None else check_namespace(from_namespace)
    new = old if to_namespace is None else check_namespace(to_namespace)
    with reading_redis(source, _tls(source)) as reading, reading_redis(target, _tls(target)) as writing:
        copied = copy_store(
            Side(reading, keys_at(source, prefix_of(old)), redis_place(source)),
            Side(writing, keys_at(target, prefix_of(new)), redis_place(target)),
            say,
        )

    if as_json:
        print_json({"keys": copied.keys, "left": copied.left.total(), "entries": copied.entries})
        return
    for kind, keys in sorted(copied.keys.items()):
        typer.echo(f"{kind:<12} {keys:>12,}")
    typer.echo(f"{copied.keys.total():,} keys with {copied.entries:,} entries copied; {copied.left.total():,} left")


def _tls(url: str) -> TlsFiles:
    """Return the files of TLS that the environment names, for a URL that asks for TLS."""
    return TlsFiles.configured() if url.startswith("rediss") else NO_TLS_FILES
