"""Write the map of files in docs/ARCHITECTURE.md: every module, its first sentence, and the tests that prove it.

``python docs/make_map.py`` rewrites the map; ``--check`` fails if it is stale. The naming rule that it enforces: the
tests of ``<room>/<drawer>/<module>.py`` are ``tests/<room>/<drawer>/test_<module>.py`` or
``test_<module>_<aspect>.py``; ``tests/<room>/<drawer>/test_<drawer>.py`` proves what a whole drawer promises. A module
without tests of its own name is listed with the tests that import it, or with those of the modules that use it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "ARCHITECTURE.md"
ROOMS = ("model_store", "training", "service", "console")
BEGIN = "<!-- map of files: begin (make docs) -->"
END = "<!-- map of files: end -->"
LONGEST_SENTENCE = 110
"""Characters that the first sentence of a module may have, so that the map stays a table."""
MOST_TESTS = 3
"""Test files that are named for one module."""


class MapError(Exception):
    """A file breaks a rule of the map."""


def main() -> int:
    """Write or check the map; return the exit code."""
    page = PAGE.read_text()
    try:
        mapped = with_map(page)
    except MapError as broken:
        print(f"error: {broken}", file=sys.stderr)  # noqa: T201
        return 1

    if "--check" not in sys.argv:
        PAGE.write_text(mapped)
        return 0
    if mapped != page:
        print("error: the map of files in docs/ARCHITECTURE.md is stale; run make docs", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def with_map(page: str) -> str:
    """Return the page with a fresh map between its two markers.

    Raises:
        MapError: The page lacks a marker, a module lacks its sentence or its tests, or a test names no module.
    """
    if BEGIN not in page or END not in page:
        raise MapError(f"docs/ARCHITECTURE.md lacks {BEGIN!r} or {END!r}")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    rooms = "\n\n".join(room_map(room) for room in ROOMS)
    return f"{before}{BEGIN}\n\n{rooms}\n\n{END}{after}"


def room_map(room: str) -> str:
    """Return the tables of one room, one per drawer."""
    check_test_names(room)
    importers = files_by_import(("tests",), "test_*.py")
    users = files_by_import(ROOMS, "*.py")
    parts = [f"### `{room}/`"]
    for drawer in drawers(room):
        name = "" if drawer == ROOT / room else f"**`{drawer.relative_to(ROOT / room)}/`** "
        parts.append(f"{name}{sentence(drawer / '__init__.py')}")
        rows = [row(module, importers, users) for module in modules(drawer)]
        parts.append("\n".join(["| File | Holds | Tests |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def drawers(room: str) -> list[Path]:
    """Return the folders of a room that hold modules, the room itself first."""
    return sorted({path.parent for path in (ROOT / room).rglob("*.py")})


def modules(drawer: Path) -> list[Path]:
    """Return the modules that lie directly in a drawer, without its ``__init__`` and ``__main__``."""
    return sorted(path for path in drawer.glob("*.py") if not path.name.startswith("__"))


def row(module: Path, importers: dict[str, list[Path]], users: dict[str, list[Path]]) -> str:
    """Return the line of one module.

    Args:
        module: The file.
        importers: Test files by the modules that they import.
        users: Files of all rooms by the modules that they import.

    Raises:
        MapError: No test bears its name, imports it, or proves a module that uses it.
    """
    tests = (
        own_tests(module) or importers.get(dotted(module), []) or drawer_tests(module) or tests_of_users(module, users)
    )
    if not tests:
        raise MapError(f"no test proves {module.relative_to(ROOT)}")
    links = ", ".join(
        f"[{test.stem.removeprefix('test_')}](../{test.relative_to(ROOT)})" for test in tests[:MOST_TESTS]
    )
    return f"| `{module.name}` | {sentence(module)} | {links} |"


def sentence(module: Path) -> str:
    """Return the first line of a module's docstring.

    Raises:
        MapError: It is missing, too long, or no whole sentence.
    """
    found = (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n")[0]
    place = module.relative_to(ROOT)
    if not found.endswith((".", ":")):
        raise MapError(f"the docstring of {place} does not begin with a sentence on one line: {found!r}")
    if len(found) > LONGEST_SENTENCE:
        raise MapError(f"the first sentence of {place} has {len(found)} characters; {LONGEST_SENTENCE} are allowed")
    return found.replace("|", "\\|")


def own_tests(module: Path) -> list[Path]:
    """Return the test files that bear the name of a module and of no longer one."""
    folder = ROOT / "tests" / module.parent.relative_to(ROOT)
    return [test for test in sorted(folder.glob("test_*.py")) if proves(test) == module]


def drawer_tests(module: Path) -> list[Path]:
    """Return the test file that bears the name of the module's drawer, if there is one."""
    test = ROOT / "tests" / module.parent.relative_to(ROOT) / f"test_{module.parent.name}.py"
    return [test] if test.exists() else []


def tests_of_users(module: Path, users: dict[str, list[Path]]) -> list[Path]:
    """Return the tests of the modules that use this one, or, where they have none either, of those that use them."""
    nearest = [module]
    seen = set(nearest)
    while nearest:
        nearest = [user for each in nearest for user in users.get(dotted(each), []) if user not in seen]
        seen.update(nearest)
        if tests := [test for user in nearest for test in own_tests(user)]:
            return tests
    return []


def dotted(module: Path) -> str:
    """Return the name by which a module is imported."""
    return ".".join(module.relative_to(ROOT).with_suffix("").parts)


def proves(test: Path) -> Path | None:
    """Return the module, or the drawer, that a test file bears the name of; ``None`` if there is no such."""
    drawer = ROOT / test.parent.relative_to(ROOT / "tests")
    subject = test.stem.removeprefix("test_")
    named = [module for module in modules(drawer) if f"{subject}_".startswith(f"{module.stem}_")]
    if named:
        return max(named, key=lambda module: len(module.stem))
    return drawer if f"{subject}_".startswith(f"{drawer.name}_") else None


def check_test_names(room: str) -> None:
    """Return if every test file of a room names what it proves.

    Raises:
        MapError: Names the first that does not.
    """
    for test in sorted((ROOT / "tests" / room).rglob("test_*.py")):
        if proves(test) is None:
            raise MapError(f"{test.relative_to(ROOT)} bears the name of no module; tests/end_to_end/ has room for it")


@cache
def files_by_import(folders: tuple[str, ...], pattern: str) -> dict[str, list[Path]]:
    """Return the files below some folders that import each module, those with the fewest imports first."""
    files = (path for folder in folders for path in sorted((ROOT / folder).rglob(pattern)))
    by_file = {path: set(imports(path)) for path in files}
    found: dict[str, list[Path]] = {}
    for path in sorted(by_file, key=lambda each: len(by_file[each])):
        for name in by_file[path]:
            found.setdefault(name, []).append(path)
    return found


def imports(path: Path) -> Iterator[str]:
    """Yield the names of the modules that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


if __name__ == "__main__":
    sys.exit(main())
