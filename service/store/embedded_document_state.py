"""Documents of the embedded store, such as placements, built from the lines of its log."""

from __future__ import annotations

from collections.abc import Iterator

from model_store.events.event_log import DocumentLine
from service.store.document_store import StoredDocument


class DocumentState:
    """Documents of one kind by name, and the number of the newest write. Only applied lines change it.

    Args:
        line_type: Type of the lines.
    """

    def __init__(self, line_type: type[DocumentLine]) -> None:
        self.line_type = line_type
        self.revision = 0
        self.stored: dict[str, StoredDocument] = {}

    def apply(self, line: DocumentLine) -> None:
        """Apply one write."""
        self.revision = max(self.revision, line.revision)
        if line.payload is None:
            self.stored.pop(line.name, None)
        else:
            self.stored[line.name] = StoredDocument(line.name, line.revision, line.payload.encode())

    def lines(self) -> Iterator[DocumentLine]:
        """Yield lines that rebuild this state."""
        if self.revision:
            yield self.line_type(revision=self.revision, name="")
        for each in self.stored.values():
            yield self.line_type(revision=each.revision, name=each.name, payload=each.payload.decode())
