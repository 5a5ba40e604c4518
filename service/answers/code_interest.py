"""Interest in the items of each first code: shown, clicked, and whether recent events differ from training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from model_store.attribution.code_counters import tally_codes
from model_store.attribution.share_shifts import psi_parts, smoothed_shares
from service.answers.trending import EventCounts
from service.models.loaded_model import LoadedModel
from service.schemas.attribution import CodeAttributionResponse, CodeAttributionRow

FEWEST_EVENTS = 100
"""Recent events below which no drift is told: a few of them are anywhere by chance."""


def build_code_attribution(
    model: LoadedModel, days: int, counters: Sequence[Mapping[str, float]], events: EventCounts
) -> CodeAttributionResponse:
    """Return the answer of ``GET /attribution/codes``. Takes milliseconds on large catalogues: not for the event loop.

    Args:
        model: The live model.
        days: Number of days.
        counters: Counters of each.
        events: Recent events by item.
    """
    catalogue = model.catalogue
    first = catalogue.codes[:, 0].astype(np.int64)
    codes = np.unique(first)
    # Interactions that were set aside count in the popularity, as they must: recent events are not filtered either.
    trained = np.bincount(first, weights=catalogue.popularity)[codes]
    recent = np.bincount(first[events.rows], weights=events.counts, minlength=int(codes[-1]) + 1)[codes]
    has_drift = recent.sum() >= FEWEST_EVENTS and trained.sum() > 0

    before, since = smoothed_shares(trained), smoothed_shares(recent)
    parts = psi_parts(before, since)
    signed = np.copysign(parts, since - before)

    tally = tally_codes(counters, model.version)
    total = sum(tally.shown.values())
    rows: list[CodeAttributionRow] = [
        {
            "code": code,
            "name": name,
            "shown": (shown := tally.shown.get(code, 0)),
            "shown_share": shown / total if total else None,
            "clicks": (clicks := tally.clicks.get(code, 0)),
            "click_through": clicks / shown if shown else None,
            "trained_share": float(before[place]),
            "recent_share": float(since[place]) if has_drift else None,
            "drift": float(signed[place]) if has_drift else None,
        }
        for place, (code, name) in enumerate(zip(codes.tolist(), model.names.find(codes[:, None]), strict=True))
    ]
    return {
        "model_version": model.version,
        "days": days,
        "shown": total,
        "clicks": sum(tally.clicks.values()),
        "unplaced_clicks": tally.unplaced,
        "recent_events": float(recent.sum()),
        "stability": float(parts.sum()) if has_drift else None,
        "codes": rows,
    }
