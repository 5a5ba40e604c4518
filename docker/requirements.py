"""Print what the project depends on, one requirement a line: ``requirements.py [EXTRA …]``.

Image layers with installed dependencies are built from this list alone, so that a change of the source, or of another
part of pyproject.toml, does not install torch again.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Requirements of the base install and of the extras, sorted.

    Raises:
        KeyError: There is no such extra.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return sorted({requirement for group in groups for requirement in group})


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path("pyproject.toml"), sys.argv[1:])) + "\n")
