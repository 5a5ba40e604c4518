"""State of reading a source: notes for people, lines that were skipped, and converted files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from model_store.errors import DataError
from model_store.source_files.csv_lines import snippet

SKIPPED = "skipped.csv"
"""File of the lines that were skipped, in the folder of the prepared data: file, line, reason and a snippet."""

LINE = "line number of the file"
"""Column of tables under way that holds the line or row number; no file has a column of that name."""

EXAMPLES = 5
"""Lines of a kind that are kept as examples."""

SKIP_HINT = "correct it, or leave such lines out with --skip-bad"


class BadLine(NamedTuple):
    """A line that cannot be used."""

    line: int
    reason: str
    text: str

    def describe(self, file: str) -> str:
        """Return place, reason and a snippet, such as ``clicks.csv line 7: item id is empty: 'u1,,3'``."""
        return f"{file} line {self.line}: {self.reason}: {snippet(self.text)}"


def refusal(file: str, first: BadLine, bad: int, lines: int) -> DataError:
    """Return the error for a file of ``lines`` lines, of which ``bad`` cannot be used, and ``first`` is the first."""
    return DataError(first.describe(file), f"{bad:,} of {lines:,} lines have such a problem: {SKIP_HINT}")


@dataclass
class Intake:
    """State of reading one source.

    Args:
        folder: Folder for converted files; the caller removes it.
        skip_bad: Skip lines that cannot be used instead of refusing the file.
        report: File of the skipped lines; it is written if there are any. Default: none.
    """

    folder: Path
    skip_bad: bool = False
    report: Path | None = None
    notes: list[str] = field(default_factory=list)
    skipped: int = 0
    skipped_first: list[str] = field(default_factory=list)  # "clicks.csv line 7: item id is empty: 'u1,,3'"
    _files: int = 0

    def note(self, text: str) -> None:
        """Keep a sentence for people; the same one only once."""
        if text not in self.notes:
            self.notes.append(text)

    def new_file(self) -> Path:
        """Return a free path for a converted file."""
        self._files += 1
        return self.folder / f"converted-{self._files}"

    def bad_line(self, file: str, line: int, reason: str, text: str) -> None:
        """Skip a line that cannot be used.

        Raises:
            DataError: Lines are not skipped.
        """
        bad = BadLine(line, reason, text)
        if not self.skip_bad:
            raise DataError(bad.describe(file), SKIP_HINT)
        self.skip(file, [bad])

    def skip(self, file: str, lines: Sequence[BadLine]) -> None:
        """Count lines as skipped and append them to the report."""
        self.skipped += len(lines)
        self.skipped_first += [bad.describe(file) for bad in lines[: EXAMPLES - len(self.skipped_first)]]
        if self.report is None:
            return
        is_new = not self.report.exists()
        with self.report.open("a", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            if is_new:
                writer.writerow(("file", *BadLine._fields))
            writer.writerows((file, bad.line, bad.reason, snippet(bad.text)) for bad in lines)
