"""The conventions of the commands: start-up, output, errors and exit codes.

A failure prints two lines on standard error, ``error: …`` (the cause) and ``fix: …`` (what to do), and returns an exit
code that scripts can rely on. With ``--json`` the result is one line on standard output, and nothing else is printed
there.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console

from model_store.errors import ConfigError, EtegrecError

DEBUG_ENV = "ETEGREC_DEBUG"
"""Environment variable that makes errors show their traceback."""

EXIT_CODES = (
    "Exit codes: 0 done · 1 unexpected error or unusable path · 2 wrong usage · 3 configuration · 4 input data"
    " · 5 model store or run folder · 6 no such version · 7 folder locked by another process"
    " · 8 store (Redis or embedded) · 9 parts of a batch run failed · 130 interrupted."
    f" {DEBUG_ENV}=1 shows the traceback of an error."
)

Command = TypeVar("Command", bound=Callable[..., Any])

_URL_AS_PATH = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/+")
"""Beginning of a path that was a URL: ``Path("s3://bucket/x")`` is ``s3:/bucket/x``. A drive has one letter."""


class _App(typer.Typer):
    """An application whose commands take no URL for a path."""

    def command(self, *args: Any, **kwargs: Any) -> Callable[[Command], Command]:
        """Register a command, see :meth:`typer.Typer.command`."""
        register = super().command(*args, **kwargs)

        def decorate(command: Command) -> Command:
            register(_refusing_urls(command))
            return command

        return decorate


def new_app(description: str) -> typer.Typer:
    """Create an application with the conventions of this project."""
    return _App(
        help=description,
        epilog=EXIT_CODES,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run(app: typer.Typer, prog: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; entry points do ``sys.exit(run(app, "etegrec-…"))``.

    Args:
        app: Made by :func:`new_app`.
        prog: Name in usage lines.
        arguments: Arguments to parse; those of the process if not given.
    """
    given = None if arguments is None else list(arguments)

    try:
        app(args=given, prog_name=prog)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # Typer does not catch those outside of the command itself
        return 130
    except EtegrecError as error:
        _report(error, str(error), error.hint)
        return error.exit_code
    except OSError as error:  # the user's path or disk, not a bug
        where = f"{error.filename}: " if error.filename else ""
        _report(error, f"{where}{error.strerror or error}", "check that the path is right, writable and has space left")
        return 1
    except Exception as error:  # noqa: BLE001  a bug must not look like one of the codes above
        hint = f"this is a bug, please report it; {DEBUG_ENV}=1 shows where it happened"
        _report(error, f"unexpected {type(error).__name__}: {error}", hint)
        return 1
    return 0


def print_json(result: Any) -> None:
    """Print one line of JSON to standard output."""
    typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))


def say(message: str) -> None:
    """Print a message for people to standard error; standard output is for results."""
    typer.echo(message, err=True)


def table_console() -> Console:
    """Create a console on standard output for tables; wide without a terminal, so that pipes get whole lines."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False)


def _refusing_urls(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command refuse a URL where it takes a path: it would write into a folder named ``s3:``.

    Options that may be URLs are text.
    """

    @wraps(command)
    def run_command(**given: Any) -> None:
        for value in given.values():
            if isinstance(value, Path) and (found := _URL_AS_PATH.match(str(value))):
                slashes = "///" if found[1] == "file" else "//"
                url = f"{found[1]}:{slashes}{str(value)[found.end() :]}"
                raise ConfigError(
                    f"{url} is a URL, and a path on this machine is needed",
                    "mount the bucket and give the path, or copy: from there before the command, to there after it",
                )
        command(**given)

    return run_command


def _report(error: Exception, message: str, hint: str) -> None:
    """Print an error and its hint, and the traceback where that is asked for."""
    if os.environ.get(DEBUG_ENV, "") not in ("", "0"):
        say("".join(traceback.format_exception(error)).rstrip())
    say(f"error: {message}")
    if hint:
        say(f"fix: {hint}")
