"""Typed client of the ETEGRec recommendation service, synchronous and asynchronous."""

from etegrec_client.async_client import AsyncClient
from etegrec_client.client import Client
from etegrec_client.errors import (
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
    ServiceFailure,
    ServiceProblem,
    ServiceUnreachable,
)
from etegrec_client.retries import Retries

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "CatalogueFull",
    "Client",
    "DeadlineMissed",
    "EtegrecError",
    "ExperimentConflict",
    "InvalidRequest",
    "ModelNotLoaded",
    "NotFound",
    "Overloaded",
    "PlacementConflict",
    "Retries",
    "ServiceFailure",
    "ServiceProblem",
    "ServiceUnreachable",
]
