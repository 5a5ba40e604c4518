"""Write docs/SETTINGS.md: every key of the training configuration with its default, range and meaning.

``python docs/make_settings.py`` rewrites the page; ``--check`` fails if it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from training.config import PRESETS, TrainingConfig, preset_values, settings

PAGE = Path(__file__).resolve().parent / "SETTINGS.md"

HEAD = """# Settings of training

Every key of the training configuration. `etegrec-train … --set section.key=value` overrides one, for `run`, `prepare`,
`validate`, `retrain`, `schedule`, `ablate` and `new-items` alike; values are TOML, and bare words are text. The options
`--items`, `--user`, `--item` and so on are short for keys of `data` and win over `--set`. A preset (`--preset demo`,
`cpu` or `paper`) changes the defaults that are listed for it. Equal settings and data give equal results. The settings
of the service are environment variables: [Operating](OPERATIONS.md).

This page is generated (`make docs`).
"""

_SIGNS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


def main() -> int:
    """Write or check the page; return the exit code."""
    page = render()
    if "--check" not in sys.argv:
        PAGE.write_text(page)
        return 0
    if not PAGE.exists() or PAGE.read_text() != page:
        print("error: docs/SETTINGS.md is stale; run make docs", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def render() -> str:
    """Return the page."""
    groups: dict[str, list[str]] = {}
    presets = {name: preset_values(name) for name in PRESETS}
    for setting in settings():
        section, _, _ = setting.key.rpartition(".")
        groups.setdefault(section, []).append(row(setting.key, setting.field, presets))

    parts = [HEAD.rstrip()]
    for section, rows in groups.items():
        title = f"## `{section}`" if section else "## Without a section"
        meaning = sentence(section)
        table = ["| Key | Default | Range | Meaning |", "|---|---|---|---|", *rows]
        parts += [title, *([meaning] if meaning else []), "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def sentence(section: str) -> str:
    """Return the first sentence of a section's docstring."""
    if not section:
        return ""
    model: type[BaseModel] = TrainingConfig
    for name in section.split("."):
        annotation = model.model_fields[name].annotation
        assert isinstance(annotation, type)
        model = annotation
    return (model.__doc__ or "").strip().partition("\n")[0]


def row(key: str, field: FieldInfo, presets: dict[str, dict[str, Any]]) -> str:
    """Return the line of one key."""
    default = field.get_default(call_default_factory=True)
    others = [
        f"{name}: {shown(value)}"
        for name, value in ((name, look_up(values, key)) for name, values in presets.items())
        if value is not None and plain(value) != plain(default)
    ]
    defaults = "; ".join([shown(default), *others])
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{key}` | {defaults} | {limits(field)} | {meaning} |"


def look_up(values: dict[str, Any], key: str) -> Any:
    """Return the value of a key in a preset, ``None`` if it has none."""
    for name in key.split("."):
        if not isinstance(values, dict) or name not in values:
            return None
        values = values[name]
    return values


def plain(value: Any) -> Any:
    """Return a value as TOML has it, so that values of presets and of fields compare."""
    return list(value) if isinstance(value, tuple) else value


def shown(value: Any) -> str:
    """Return a value as one writes it after ``--set key=``."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, list)):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def limits(field: FieldInfo) -> str:
    """Return the range of a field in words."""
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    bounds = list(_bounds(field))
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(each for each in get_args(annotation) if each is not type(None))
    if annotation is bool:
        return "`true`, `false`"
    kind = {int: "whole number", float: "number", str: "text"}.get(annotation, "")  # type: ignore[arg-type]
    kind = kind or ("list" if get_origin(annotation) is tuple else "")
    return " ".join([kind, " and ".join(bounds)]).strip()


def _bounds(field: FieldInfo) -> Iterator[str]:
    for each in field.metadata:
        for kind, (sign, attribute) in _SIGNS.items():
            if isinstance(each, kind):
                yield f"{sign} {getattr(each, attribute):,}"
        if isinstance(each, MaxLen):
            yield f"up to {each.max_length} characters"


if __name__ == "__main__":
    sys.exit(main())
