"""Errors of the console itself; those of the service are told by :mod:`console.api.troubles`."""

from __future__ import annotations


class ConsoleError(Exception):
    """The console cannot start as it is set up. The message says why, ``hint`` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint
