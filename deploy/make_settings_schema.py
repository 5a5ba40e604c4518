"""Write the settings that the Helm chart takes into its schema, ``values.schema.json``, from ``service/settings.py``.

``python -m deploy.make_settings_schema`` rewrites the definitions ``settings`` and ``ownVariables``, one name a line;
``--check`` fails if they are stale. So a setting that is mistyped, or whose value is of a wrong kind, is refused before
anything is installed. Values are text, as variables are, so a schema cannot compare them with bounds: a number that is
out of its range ends the process at its start.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from model_store.console import DEBUG_ENV
from model_store.namespace import NAME_PATTERN, NAMESPACE_ENV
from service.ingest.cli import app as ingest_app
from service.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "deploy" / "helm" / "etegrec" / "values.schema.json"

SET_BY_CHART = frozenset(
    f"{ENV_PREFIX}{name}"
    for name in (
        "HOST",
        "PORT",
        "SECRETS_DIR",
        "SHUTDOWN_DELAY_S",
        "SHUTDOWN_GRACE_S",
        "STORE",
        "THREADS",
        "TRACING",
        "TRUSTED_KEYS_FILE",
    )
)
"""Settings with values of their own in the chart; given twice, one of the two would be lost."""

KINDS: dict[object, dict[str, Any]] = {
    bool: {"enum": ["true", "false"]},
    int: {"$ref": "#/$defs/wholeNumberText"},
    float: {"$ref": "#/$defs/numberText"},
    str: {"type": "string"},
}
"""Schema of the text of a setting, by its type."""


def main() -> int:
    """Write or check the file; return the exit code."""
    stored = SCHEMA.read_text(encoding="utf-8")
    wanted = with_definitions(stored)
    if "--check" not in sys.argv:
        SCHEMA.write_text(wanted, encoding="utf-8")
        return 0
    if stored != wanted:
        sys.stderr.write(f"error: {SCHEMA.relative_to(ROOT)} is stale; run python -m deploy.make_settings_schema\n")
        return 1
    return 0


def with_definitions(schema: str) -> str:
    """Return the text of the schema with both definitions as they are to be."""
    lines = [f"        {json.dumps(name)}: {json.dumps(kind)}" for name, kind in shared_settings().items()]
    schema = _replaced(
        schema,
        "settings",
        [
            '      "type": "object",',
            '      "additionalProperties": false,',
            '      "properties": {',
            *_listed(lines),
            "      }",
        ],
    )
    names = [f"        {json.dumps(name)}" for name in own_variables()]
    return _replaced(schema, "ownVariables", ['      "enum": [', *_listed(names), "      ]"])


def _listed(lines: list[str]) -> list[str]:
    return [*(f"{line}," for line in lines[:-1]), lines[-1]]


def _replaced(schema: str, name: str, lines: list[str]) -> str:
    """Return the schema with other lines in one of its definitions."""
    found = re.compile(rf'^    "{name}": \{{\n.*?^    \}}', re.MULTILINE | re.DOTALL)
    text = "\n".join([f'    "{name}": {{', *lines, "    }"])
    replaced, count = found.subn(lambda _: text, schema)
    if count != 1:
        raise ValueError(f"the schema has {count} definitions {name}, not one")
    return replaced


def shared_settings() -> dict[str, dict[str, Any]]:
    """Return the variables that the value ``settings`` takes, each with the schema of its text."""
    named = {f"{ENV_PREFIX}{name.upper()}": field for name, field in Settings.model_fields.items()}
    kinds = {
        name: kind_of(field) for name, field in named.items() if not _is_secret(field) and name not in SET_BY_CHART
    }
    return kinds | {NAMESPACE_ENV: {"type": "string", "pattern": f"^({NAME_PATTERN})?$"}}


def own_variables() -> list[str]:
    """Return the variables of ours that a part's ``env`` takes: settings, and what a command alone reads.

    All programs of a shop must have the same namespace, so it has no place in the variables of one.
    """
    names = {*shared_settings(), *_of_commands(), DEBUG_ENV, f"{ENV_PREFIX}TRACING"} - {NAMESPACE_ENV}
    return sorted(names)


def _of_commands() -> Iterator[str]:
    group = typer.main.get_command(ingest_app)
    for command in group.commands.values():  # type: ignore[attr-defined]
        yield from (option.envvar for option in command.params if option.envvar)


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


def kind_of(field: FieldInfo) -> dict[str, Any]:
    """Return the schema of a setting's text."""
    annotation: Any = field.annotation
    if get_origin(annotation) is Literal:
        return {"enum": list(get_args(annotation))}
    kinds = [each for each in get_args(annotation) or (annotation,) if each is not NoneType]
    return KINDS[kinds[0]]


if __name__ == "__main__":
    sys.exit(main())
