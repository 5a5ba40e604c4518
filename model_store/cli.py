"""The command ``etegrec-models``: shows the model store and decides which version is served."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from model_store.bundle.aliases import DEFAULT_SHARE, Alias, AliasName, check_alias_name
from model_store.bundle.bundle import Bundle
from model_store.bundle.key_files import create_keys
from model_store.bundle.registry import DEFAULT_STORE, STORE_ENV, ModelStore
from model_store.bundle.signature import SIGNING_ENV, SigningKey
from model_store.bundle.withheld import Withheld
from model_store.console import new_app, print_json, run, table_console
from model_store.errors import BundleRefused, ConfigError, SignatureRefused
from model_store.redis_copy.command import copy_redis

app = new_app("Show the versions of a model store, verify them, and decide which one is served.")
app.command("copy-redis")(copy_redis)


def _existing(store: str) -> str:
    """Return the model store, which must exist: no command here begins one."""
    ModelStore(store).require()
    return store


StoreOption = Annotated[
    str,
    typer.Option("--store", envvar=STORE_ENV, help="Path or fsspec URL of the model store.", callback=_existing),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]
VersionArgument = Annotated[
    str | None, typer.Argument(help="Version name, see `list`.", show_default="the live version")
]


@app.command("list")
def list_versions(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List the versions, oldest first: live, before, with an alias, rolled back or held back."""
    opened = ModelStore(store)
    live = opened.live()
    previous = opened.previous()
    withheld = opened.withheld()
    aliases = opened.aliases()
    rows = [_describe(opened, version, live, previous, withheld, aliases) for version in opened.versions()]

    if as_json:
        shown = {name: alias.model_dump(mode="json") for name, alias in aliases.items()}
        print_json({"store": opened.url, "live": live, "previous": previous, "aliases": shown, "versions": rows})
        return
    if not rows:
        table_console().print(f"The model store {opened.url} holds no versions yet.", markup=False)
        return

    table = Table("version", "state", "created", "data", "size", "parent")
    for row in rows:
        table.add_row(Text(row["version"]), Text(row["state"]), *_detail_cells(row))
    table_console().print(table)
    for row in rows:
        if row["withheld"]:
            typer.echo(f"{row['version']} was {withheld[row['version']].words}")
    for name, alias in aliases.items():
        typer.echo(f"{alias.version} is the {name}, with {alias.words}")


@app.command()
def show(store: StoreOption = DEFAULT_STORE, version: VersionArgument = None, as_json: JsonOption = False) -> None:
    """Show the data, metrics, configuration and files of a version."""
    opened = ModelStore(store)
    bundle = opened.bundle(version)
    is_live = bundle.version == opened.live()
    withheld = None if is_live else opened.withheld().get(bundle.version)
    aliases = {name: alias for name, alias in opened.aliases().items() if alias.version == bundle.version}
    manifest = bundle.manifest.model_dump(mode="json") | {
        "live": is_live,
        "aliases": {name: alias.model_dump(mode="json") for name, alias in aliases.items()},
        "withheld": _withheld_facts(withheld),
    }
    if as_json:
        print_json(manifest)
        return
    _print_bundle(bundle, manifest, withheld, aliases)


@app.command()
def verify(
    store: StoreOption = DEFAULT_STORE,
    version: VersionArgument = None,
    every: Annotated[bool, typer.Option("--all", help="Verify every version of the model store.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a whole version: its signature, every hash and format, and that items, codes and configuration agree.

    A signature is needed if ETEGREC_TRUSTED_KEYS_FILE names a file of public keys; so it is to promote and roll back.
    """
    if every and version is not None:
        raise ConfigError("a version and --all exclude each other", "name a version or use --all")
    opened = ModelStore(store)
    chosen = opened.versions() if every else [opened.bundle(version).version]

    refused: dict[str, BundleRefused] = {}
    for name in chosen:
        try:
            bundle = opened.bundle(name)
            bundle.verify()
        except BundleRefused as problem:
            refused[name] = problem
        if not as_json:
            typer.echo(f"{name} is {_state_of(refused[name]) if name in refused else f'intact{_origin(bundle)}'}")

    if as_json:
        print_json({name: str(refused[name]) if name in refused else "intact" for name in chosen})
    if refused:
        raise next(iter(refused.values()))


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Version name, see `list`.", show_default=False)],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Verify a version and make it live, also one that was rolled back or held back. Services load it by themselves."""
    opened = ModelStore(store)
    overridden = opened.withheld().get(version)
    before = opened.promote(version)
    if as_json:
        print_json({"live": version, "before": before, "overridden": _withheld_facts(overridden)})
        return

    if before == version:
        typer.echo(f"{version} is live already")
    else:
        typer.echo(f"{version} is live now" + (f", {before} was live before" if before else ""))
    if overridden:
        typer.echo(f"it was {overridden.words}; this promotion overrides that")


@app.command()
def rollback(
    store: StoreOption = DEFAULT_STORE,
    reason: Annotated[str, typer.Option(help="Why; shown by `list` and by retraining.", show_default=False)] = "",
    as_json: JsonOption = False,
) -> None:
    """Make the previously live version live again. Repeat to go further back.

    The version that was live is remembered: retraining neither promotes it again nor trains it again from the same data
    and settings, until `promote` names it.
    """
    opened = ModelStore(store)
    before = opened.live()
    live = opened.rollback(reason)
    if as_json:
        print_json({"live": live, "before": before, "reason": reason})
    else:
        typer.echo(f"{live} is live again instead of {before}")
        typer.echo(f"retraining leaves {before} out from now on; `etegrec-models promote {before}` overrides that")


@app.command("alias")
def set_alias(
    name: Annotated[str, typer.Argument(help="candidate or shadow.", show_default=False)],
    version: Annotated[str | None, typer.Argument(help="Version name, see `list`.", show_default=False)] = None,
    store: StoreOption = DEFAULT_STORE,
    share: Annotated[
        float, typer.Option(help="Share of users and sessions (candidate, at most 0.5), or of requests (shadow).")
    ] = DEFAULT_SHARE,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Let services load a version beside the live one, by themselves, after verifying it.

    The candidate answers a share of the users and sessions, the same ones at every visit. If it does worse than the
    live version, services stop using it by themselves, and it counts as rolled back. The shadow answers nobody: it
    searches a share of the requests again, to be compared.
    """
    known = check_alias_name(name)
    if remove == (version is not None):
        raise ConfigError("name a version or use --remove, one of both", f"`etegrec-models alias {known} VERSION`")

    opened = ModelStore(store)
    if version is not None:
        given = opened.set_alias(known, version, share)
        if as_json:
            print_json({"alias": known, **given.model_dump(mode="json")})
        else:
            typer.echo(f"{version} is the {known} now, with {given.words}")
        return

    removed = opened.remove_alias(known)
    if as_json:
        print_json({"alias": known, "removed": removed and removed.version})
    else:
        typer.echo(f"{removed.version} is no longer the {known}" if removed else f"no version is the {known}")


@app.command()
def sign(
    version: Annotated[str, typer.Argument(help="Version name, see `list`.", show_default=False)],
    key: Annotated[Path, typer.Option("--signing-key", envvar=SIGNING_ENV, help="Private key.", show_default=False)],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Verify a version and sign it; its signatures by other keys stay. Keys change this way, too."""
    signing = SigningKey.load(key)
    opened = ModelStore(store)
    opened.sign(version, signing)
    if as_json:
        print_json({"version": version, "key": signing.name})
    else:
        typer.echo(f"{version} is signed by {signing.name}")


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="File of the private key; PATH.pub gets the public one.")],
    as_json: JsonOption = False,
) -> None:
    """Create a key to sign versions with. Services get the public file, publishers the private one."""
    name, public = create_keys(path)
    if as_json:
        print_json({"key": name, "private": str(path), "public": str(public)})
    else:
        typer.echo(f"key {name}: private {path}, public {public}")


@app.command()
def gc(
    store: StoreOption = DEFAULT_STORE,
    keep: Annotated[int, typer.Option(min=0, help="Number of newest versions that always stay.")] = 5,
    pin: Annotated[list[str] | None, typer.Option(help="Version to keep; may be given several times.")] = None,
    leftover_hours: Annotated[
        float, typer.Option("--leftover-hours", min=0.0, help="Minimum age of half-written leftovers to remove.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove old versions and leftovers of killed publishers; never the live one, the one before, or an alias's."""
    done = ModelStore(store).gc(keep, pin or (), leftover_hours * 3600.0, dry_run)
    if as_json:
        print_json(
            {"removed": done.removed, "leftovers": done.leftovers, "kept": done.kept, "dry_run": dry_run},
        )
        return

    verb = "would remove" if dry_run else "removed"
    for name in (*done.removed, *done.leftovers):
        typer.echo(f"{verb} {name}")
    typer.echo(
        f"{len(done.removed)} versions and {len(done.leftovers)} leftovers {verb}, {len(done.kept)} versions kept"
    )


def main() -> None:
    """Run ``etegrec-models``."""
    sys.exit(run(app, "etegrec-models"))


def _describe(
    store: ModelStore,
    version: str,
    live: str | None,
    previous: str | None,
    withheld: dict[str, Withheld],
    aliases: dict[AliasName, Alias],
) -> dict[str, Any]:
    """Return the facts that ``list`` shows of a version."""
    rejected = None if version == live else withheld.get(version)
    main = "live" if version == live else "previous" if version == previous else rejected.state if rejected else ""
    own_aliases = [name for name, alias in aliases.items() if alias.version == version]
    state = ", ".join([*([main] if main else []), *own_aliases])
    facts = {"version": version, "state": state, "aliases": own_aliases, "withheld": _withheld_facts(rejected)}

    try:
        manifest = store.bundle(version).manifest
    except BundleRefused as problem:
        return facts | {"state": f"{state} {_state_of(problem)}".strip(), "problem": str(problem)}

    return facts | {
        "created_at": manifest.created_at.isoformat(),
        "data": manifest.data.name,
        "bytes": manifest.size,
        "parent": manifest.parent,
        "metrics": manifest.metrics,
    }


def _withheld_facts(withheld: Withheld | None) -> dict[str, Any] | None:
    """Return state, time and reason of a version that was rolled back or held back, ``None`` for any other."""
    return None if withheld is None else withheld.model_dump(mode="json", include={"state", "at", "reason"})


def _state_of(problem: BundleRefused) -> str:
    """Return in one word why a version is refused."""
    return "untrusted" if isinstance(problem, SignatureRefused) else "damaged"


def _origin(bundle: Bundle) -> str:
    """Return who signed a version, to be added to a sentence about it; empty if nobody did."""
    if bundle.signed_by:
        return f", signed by {bundle.signed_by}"
    names = bundle.signers
    return f", signed by {', '.join(names)} (not checked: no keys are trusted here)" if names else ""


def _detail_cells(row: dict[str, Any]) -> list[Text]:
    """Return the cells of a listed version after its state, empty for a damaged version."""
    if "problem" in row:
        return [Text(""), Text(""), Text(""), Text("")]
    return [
        Text(row["created_at"][:16].replace("T", " ")),
        Text(row["data"]),
        Text(_format_megabytes(row["bytes"])),
        Text(row["parent"] or ""),
    ]


def _print_bundle(
    bundle: Bundle, manifest: dict[str, Any], withheld: Withheld | None, aliases: dict[AliasName, Alias]
) -> None:
    """Print the tables that ``show`` consists of."""
    console = table_console()
    console.print(_fact_table(bundle, manifest, withheld, aliases))
    console.print(_metric_table(bundle.manifest.metrics))

    files = Table("file", "size", "sha256")
    for file, seal in sorted(bundle.manifest.files.items()):
        files.add_row(Text(file), _format_megabytes(seal.size), seal.sha256)
    console.print(files)


def _fact_table(
    bundle: Bundle, manifest: dict[str, Any], withheld: Withheld | None, aliases: dict[AliasName, Alias]
) -> Table:
    table = Table("field", "value", title=bundle.version, title_justify="left")
    table.add_row("live", Text("yes" if manifest["live"] else f"no, {withheld.words}" if withheld else "no"))
    for alias_name, alias in aliases.items():
        table.add_row(alias_name, Text(f"yes, {alias.words}"))
    table.add_row("signature", Text(_origin(bundle).removeprefix(", ")))
    for name in ("created_at", "embedding_source", "parent"):
        table.add_row(name, Text(str(manifest[name] or "")))

    data = bundle.manifest.data
    table.add_row("data", Text(f"{data.name} ({data.fingerprint[:16]})"))
    for name, count in data.counts.items():
        table.add_row(Text(f"  {name}"), f"{count:,}")

    table.add_row("training settings", (bundle.manifest.training or "")[:16])
    for section in ("config", "tokenizer", "coverage"):
        for name, value in _flatten(manifest.get(section, {}), section):
            table.add_row(Text(name), Text(str(value)))
    return table


def _metric_table(metrics: dict[str, dict[str, float]]) -> Table:
    names = sorted({name for values in metrics.values() for name in values})
    table = Table("metrics", *names)
    for group, values in metrics.items():
        table.add_row(Text(group), *(f"{values[name]:.4f}" if name in values else "" for name in names))
    return table


def _flatten(section: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Return the values of nested settings by their dotted names."""
    found: list[tuple[str, Any]] = []
    for name, value in section.items():
        if isinstance(value, dict):
            found += _flatten(value, f"{prefix}.{name}")
        else:
            found.append((f"{prefix}.{name}", value))
    return found


def _format_megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"
