"""The compose file and the Dockerfiles, taken apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"\$\{(\w+):?-([^}]*)\}")
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def filled(value: Any) -> Any:
    """Return a part of the compose file as it is without an .env file: variables replaced by their defaults."""
    if isinstance(value, dict):
        return {key: filled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each) for each in value]
    return VARIABLE.sub(r"\2", value) if isinstance(value, str) else value


COMPOSE = filled(yaml.safe_load(COMPOSE_TEXT))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


class Instruction(NamedTuple):
    """One instruction of a Dockerfile."""

    word: str
    rest: str


def instructions(name: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile, continued lines joined."""
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Instruction(*line.split(None, 1)) for line in lines]


def final_stage(name: str) -> list[Instruction]:
    """Return the instructions of the last stage of a Dockerfile, which becomes the image."""
    found = instructions(name)
    return found[max(at for at, each in enumerate(found) if each.word == "FROM") :]
