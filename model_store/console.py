"""What the three commands share: how they start, how they report, how they fail.

A failure is two lines on standard error, ``error: …`` (the cause) and ``fix: …`` (what to do), and an exit code that
scripts can rely on. With ``--json`` the result is one line on standard output and nothing else is there.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console

from model_store.errors import EtegrecError

DEBUG_ENV = "ETEGREC_DEBUG"

EXIT_CODES = (
    "Exit codes: 0 done · 1 unexpected error or unusable path · 2 wrong usage · 3 configuration · 4 input data"
    " · 5 model store or run folder · 6 no such version · 7 store busy · 8 Redis or live store · 130 interrupted."
    f" {DEBUG_ENV}=1 shows the traceback of an error."
)


def new_app(description: str) -> typer.Typer:
    """An application with the conventions of this project."""
    return typer.Typer(
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
        arguments: Those of the process if not given.
    """
    try:
        app(args=arguments if arguments is None else list(arguments), prog_name=prog)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # outside of the part that the framework guards
        return 130
    except EtegrecError as error:
        _report(error, str(error), error.hint)
        return error.exit_code
    except OSError as error:  # a path or disk of the user's: no bug
        where = f"{error.filename}: " if error.filename else ""
        _report(error, f"{where}{error.strerror or error}", "check that the path is right, writable and has space left")
        return 1
    except Exception as error:  # noqa: BLE001  the last stop: a bug must not look like one of the codes above
        hint = f"this is a bug, please report it; {DEBUG_ENV}=1 shows where it happened"
        _report(error, f"unexpected {type(error).__name__}: {error}", hint)
        return 1
    return 0


def print_json(result: Any) -> None:
    """Print one line of JSON to standard output."""
    typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))


def say(message: str) -> None:
    """Tell a person something, on standard error, so that standard output stays the result."""
    typer.echo(message, err=True)


def tables() -> Console:
    """A console on standard output; wide where there is no terminal, so that pipes see whole lines."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False)


def _report(error: Exception, message: str, hint: str) -> None:
    if os.environ.get(DEBUG_ENV, "") not in ("", "0"):
        say("".join(traceback.format_exception(error)).rstrip())
    say(f"error: {message}")
    if hint:
        say(f"fix: {hint}")
