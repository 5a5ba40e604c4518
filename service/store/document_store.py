"""Interface of stored documents, such as placements: named, read by all replicas, numbered by their writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from model_store.errors import EtegrecError, StoreUnavailable

MAX_DOCUMENTS = 1000
"""Largest number of documents of one kind. Every replica holds all of them in memory."""


class StoredDocument(NamedTuple):
    """A document as it is stored."""

    name: str
    revision: int  # number of the write that made it
    payload: bytes  # JSON, as the service wrote it


class StoredDocuments(NamedTuple):
    """What a read of all documents of a kind returns.

    Attributes:
        revision: Number of the newest write that the store holds, 0 for none. It is lower than what the reader knew if
            the store lost writes; then ``changed`` has all that the store still holds.
        names: Names of all documents.
        changed: Documents that were written after the revision that the reader knew.
    """

    revision: int
    names: frozenset[str]
    changed: Sequence[StoredDocument]


class DocumentChanged(EtegrecError):
    """The stored document is not the one that the writer has seen.

    Attributes:
        revision: Revision of the stored one, 0 if there is none.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(f"the stored document has revision {revision}")
        self.revision = revision


class OthersChanged(EtegrecError):
    """Another document was written since the writer has read all of them."""

    def __init__(self) -> None:
        super().__init__("another document was written meanwhile")


class TooManyDocuments(EtegrecError):
    """There are :data:`MAX_DOCUMENTS` already."""

    def __init__(self) -> None:
        super().__init__(f"there are {MAX_DOCUMENTS} documents already")


class DocumentStore(ABC):
    """Documents of one kind by name. Each write has a number, its revision: the first is 1, and none is used twice.

    Every method raises :class:`~model_store.errors.StoreUnavailable` when the store cannot be reached in time.
    """

    @abstractmethod
    async def read(self, known: int) -> StoredDocuments | None:
        """Read what was written after revision ``known``, in one atomic step; ``None`` if nothing was.

        Raises:
            StoreCorrupt: An entry does not decode.
        """

    @abstractmethod
    async def put(
        self, name: str, payload: bytes, known: int, expected: int | None = None, *, others_unchanged: bool = False
    ) -> int:
        """Store a document in place of any older one, and return the revision that it got.

        Args:
            name: Its name.
            payload: Its content.
            known: Revision that the caller has read. A store that holds less has lost writes: it takes none.
            expected: Revision of the document that the caller means to replace, 0 for none; ``None``: whichever.
            others_unchanged: Whether to write only if nothing was written after ``known``.

        Raises:
            DocumentChanged: The stored revision is not the expected one.
            OthersChanged: Something was written after ``known``, which must not be.
            TooManyDocuments: The document would be new, and there are :data:`MAX_DOCUMENTS`.
            StoreUnavailable: The store has lost writes: :meth:`restore` them first.
        """

    @abstractmethod
    async def delete(self, name: str, known: int, expected: int | None = None) -> int:
        """Delete a document, on a full store as well, and return the number of this write; 0 if there is none.

        The arguments and errors are those of :meth:`put`.
        """

    @abstractmethod
    async def restore(self, revision: int, documents: Sequence[StoredDocument]) -> bool:
        """Store what the caller knows, because the store has lost writes; return ``False`` if it has not.

        Args:
            revision: Revision that the caller has read.
            documents: All documents that the caller knows, which replace those in the store.
        """


def lost_documents() -> StoreUnavailable:
    """Return the error for a store that holds less than this replica has read."""
    return StoreUnavailable(
        "the store lost documents that this replica has",
        "the replica gives them back within a second: repeat the write then",
    )
