"""Troubles: what to tell people about errors of the service."""

from __future__ import annotations

from dataclasses import dataclass

from etegrec_client import (
    AccessDenied,
    CatalogueFull,
    DeadlineMissed,
    EtegrecError,
    ExperimentConflict,
    InvalidRequest,
    ModelNotLoaded,
    NotFound,
    Overloaded,
    PlacementConflict,
    ServiceProblem,
    ServiceUnreachable,
)


@dataclass(frozen=True)
class Trouble:
    """An error of the service in words: what happened, what the service said, what to do."""

    title: str
    detail: str
    advice: str


_ADVICE: tuple[tuple[type[EtegrecError], str, str], ...] = (
    (
        ServiceUnreachable,
        "The service cannot be reached",
        "Check that it runs and that --service names its address. This page tries again when you ask it to.",
    ),
    (
        AccessDenied,
        "The key may not do this",
        "Give the console a key with the scope that is named: ETEGREC_CONSOLE_KEY to look, "
        "ETEGREC_CONSOLE_WRITE_KEY to change things, and to see users, trials of models and reports.",
    ),
    (NotFound, "There is no such thing", "Check the id; ids are compared letter by letter."),
    (InvalidRequest, "The service does not take this", "Correct what it names and try again."),
    (PlacementConflict, "It was changed meanwhile", "Open the page again, and make your change to what is stored now."),
    (ModelNotLoaded, "This model does not answer here", "See the page Models: it says what became of the version."),
    (ExperimentConflict, "It does not fit what is stored", "Correct what it names, or open the page again."),
    (CatalogueFull, "Every semantic ID is taken", "Train a model with a larger codebook, or with more levels."),
    (Overloaded, "The service cannot answer now", "Wait a moment and try again. The overview says what is wrong."),
    (DeadlineMissed, "There was no answer in time", "Try again; if it goes on, add replicas."),
)


def trouble_of(error: EtegrecError) -> Trouble:
    """Return what to tell people about an error of the service."""
    for kind, title, advice in _ADVICE:
        if isinstance(error, kind):
            return Trouble(title, _detail(error), advice)
    return Trouble(
        "The service failed", _detail(error), "This is a bug: look for the request in the service's log, and report it."
    )


def _detail(error: EtegrecError) -> str:
    """Return what the service said, with the fields that it named and the id of the request."""
    if not isinstance(error, ServiceProblem):
        return str(error)

    parts = [error.detail or f"It answered {error.status}."]
    parts += [f"{field['field'] or 'body'}: {field['message']}" for field in error.fields]
    if error.request_id:
        parts.append(f"Request {error.request_id}.")
    return " ".join(parts)
