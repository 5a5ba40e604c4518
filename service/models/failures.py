"""Failures of loading a version: when it is tried again, and what operators are told meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from model_store.errors import BundleRefused, EtegrecError, LoadTimeout
from service.models.loaded_model import PARTS, LoadedModel, Part
from service.models.memory_budget import OverBudget
from service.settings import Settings

log = structlog.get_logger()

RETRY_AT_MOST_S = 300.0
"""Longest wait before a version that failed to load is tried again."""

REST_AFTER_TIMEOUT = 10
"""Wait before a version is tried again that took too long, as a multiple of the time limit: it may never end."""

LACKING: dict[Part, str] = {
    "item_encoder": "refuses new items, because this machine refuses its item encoder",
    "reduced_precision": "is served in full precision, because this machine refuses its reduced one",
}
"""Consequence of each part that is refused, to follow the name of the version."""


@dataclass(frozen=True)
class _Failure:
    """A version that failed to load."""

    version: str
    attempts: int
    retry_at: float  # time.monotonic(), seconds


class LoadFailures:
    """The last version that failed to load, if it has not been loaded since.

    Args:
        settings: See :class:`~service.settings.Settings`.
        count: Counts a failure by its result.
    """

    def __init__(self, settings: Settings, count: Callable[[str], None]) -> None:
        self._settings = settings
        self._count = count
        self._last: _Failure | None = None

    def must_wait(self, version: str) -> bool:
        """Return true while a version that failed to load may not be tried again."""
        last = self._last
        return last is not None and last.version == version and time.monotonic() < last.retry_at

    def record(self, version: str, failure: Exception) -> str:
        """Count and log a failure, and decide when the version is tried again; return the problem for people."""
        attempts_before = self._last.attempts if self._last and self._last.version == version else 0
        wait_s = min(self._settings.reload_s * 2**attempts_before, RETRY_AT_MOST_S)
        result = "failed"
        problem = "could not be loaded; see the service's log"

        if isinstance(failure, LoadTimeout):
            wait_s = REST_AFTER_TIMEOUT * self._settings.load_timeout_s
            result = "timeout"
            problem = f"was given up after {self._settings.load_timeout_s:g} s; see the service's log"
        elif isinstance(failure, OverBudget):
            result = "over_budget"
            problem = f"{failure.need}; {failure.hint}"
        elif isinstance(failure, BundleRefused):
            result = "refused"

        self._last = _Failure(version, attempts_before + 1, time.monotonic() + wait_s)
        self._count(result)
        hint = failure.hint if isinstance(failure, EtegrecError) else ""
        log.error("model_load_failed", version=version, cause=str(failure), hint=hint, exc_info=failure)
        return f"version {version} {problem}"

    def clear(self) -> None:
        """Forget the last failure."""
        self._last = None


def problem_of(model: LoadedModel) -> str:
    """Return what people should know about a model that answers without some of its parts; empty if it has them all."""
    lacks = " and ".join(LACKING[part] for part in PARTS if part in model.refused_parts)
    return f"version {model.version} {lacks}; see the service's log" if lacks else ""
