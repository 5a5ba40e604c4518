"""Groups of options: what a command with two groups takes, what it gets, and what else it may default to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
import typer

from model_store.console import new_app, run
from model_store.option_groups import with_option_groups


@dataclass(frozen=True)
class Place:
    folder: Annotated[str, typer.Option("--out", help="Folder.")]
    depth: Annotated[int, typer.Option(min=1)] = 2


@dataclass(frozen=True)
class Words:
    given: Annotated[list[str], typer.Option("--word")] = field(default_factory=list)


def ask(*arguments: str, **defaults: Any) -> tuple[int, list[object]]:
    app = new_app("Test.")
    got: list[object] = []

    @app.command()
    @with_option_groups(**defaults)
    def command(place: Place, words: Words, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
        """Keep what it gets."""
        got.extend((place, loud, words))

    return run(app, "test", arguments), got


def test_fields_of_all_groups_are_options_of_the_command() -> None:
    assert ask("--out", "x", "--word", "a", "--loud", "--depth", "3", "--word", "b") == (
        0,
        [Place("x", 3), True, Words(["a", "b"])],
    )


def test_fields_keep_their_defaults_and_limits_and_a_command_may_have_its_own() -> None:
    assert ask("--out", "x") == (0, [Place("x", 2), False, Words([])])
    assert ask(folder="here", depth=5) == (0, [Place("here", 5), False, Words([])])
    assert ask("--out", "x", "--depth", "0") == (2, [])


def test_a_field_without_default_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask() == (2, [])
    assert "--out" in capsys.readouterr().err
