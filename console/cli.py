"""Command ``etegrec-console``: pages for people, as a client of a running service."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from console.errors import ConsoleError
from console.settings import SECRETS_DIR, Settings

command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@command.command()
def serve(
    service: Annotated[str | None, typer.Option(help="Address of the service, such as http://127.0.0.1:8000.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 unless told otherwise.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8088 unless told otherwise.")] = None,
    names: Annotated[str | None, typer.Option(help="Host names by which browsers come, separated by commas.")] = None,
    allow_changes: Annotated[
        bool | None, typer.Option("--allow-changes", help="Allow changes without a key: the service needs none.")
    ] = None,
) -> None:
    """Serve the console until Ctrl-C.

    Keys come from the environment: ETEGREC_CONSOLE_KEY to look, ETEGREC_CONSOLE_WRITE_KEY to change items and to see
    users. Without the second one nothing can be changed. docs/CONSOLE.md lists all settings.
    """
    given = {"service": service, "host": host, "port": port, "names": names, "allow_changes": allow_changes}
    settings = Settings.load(
        os.environ.get(SECRETS_DIR, ""), **{name: value for name, value in given.items() if value is not None}
    )

    from console.app import run_console  # the library is an extra, and slow to import

    rights = "changes allowed" if settings.can_change else "read-only"
    typer.echo(
        f"console on http://{settings.host}:{settings.port}, {rights}, for {settings.service}; Ctrl-C ends it", err=True
    )
    run_console(settings)


def main() -> int:
    """Run the command and return its exit code."""
    try:
        command(prog_name="etegrec-console", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ConsoleError as error:
        typer.echo(f"error: {error}\nfix: {error.hint}", err=True)
        return 3
    except ModuleNotFoundError as error:
        if error.name != "nicegui":
            raise
        typer.echo("error: the console's library is missing\nfix: pip install 'etegrec[console]'", err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
