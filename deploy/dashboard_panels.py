"""Rows and panels of the Grafana dashboard: what each shows, and the queries behind it.

The queries say nothing about jobs and replicas: :mod:`deploy.make_dashboard` narrows them to those that are chosen
above the dashboard. ``RATE`` is the range that Grafana finds fit for the time that is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RATE = "[$__rate_interval]"

RECOMMEND = 'endpoint="/recommend",status="200"'
"""Labels of recommendations that were answered."""


@dataclass(frozen=True)
class Panel:
    """One panel of the dashboard."""

    title: str
    meaning: str
    """What it shows, and when to worry; Grafana shows it at the title."""
    unit: str
    """Grafana's name of the unit."""
    queries: Mapping[str, str]
    """Expressions by legend; a legend holds labels in double braces."""
    kind: Literal["timeseries", "stat"] = "timeseries"
    is_stacked: bool = False
    bad_from: float | None = None
    """Value from which a number is shown in red, below it in green."""


@dataclass(frozen=True)
class Row:
    """A headed row of panels."""

    title: str
    panels: tuple[Panel, ...]


def quantiles(metric: str, labels: str = "", by: str = "") -> dict[str, str]:
    """Return the expressions of median and 99th percentile of a histogram.

    Args:
        metric: Its name, without ``_bucket``.
        labels: Selector of series.
        by: Label whose values get a line each, or empty.
    """
    series = f"{metric}_bucket{{{labels}}}" if labels else f"{metric}_bucket"
    buckets = f"sum by ({', '.join(('le', by)) if by else 'le'}) (rate({series}{RATE}))"
    name = f"{{{{{by}}}}} " if by else ""
    return {f"{name}{legend}": f"histogram_quantile({q}, {buckets})" for legend, q in (("p50", 0.5), ("p99", 0.99))}


def rates(metric: str, by: str, labels: str = "") -> dict[str, str]:
    """Return the expression of a counter's rate a second, with a line for each value of a label."""
    series = f"{metric}{{{labels}}}" if labels else metric
    return {f"{{{{{by}}}}}": f"sum by ({by}) (rate({series}{RATE}))"}


def share(part: str, whole: str) -> str:
    """Return the expression of one counter's share in another, 0 to 1; nothing where neither counts."""
    return f"sum(rate({part}{RATE})) / sum(rate({whole}{RATE}))"


NOW = Row(
    "Now",
    (
        Panel("Alerts", "Alerts that fire now. Prometheus lists them under /alerts, with what to do.", "short",
              {"firing": 'count(ALERTS{alertname=~"Etegrec.*",alertstate="firing"}) or vector(0)'}, "stat", bad_from=1),
        Panel("Replicas", "Replicas that answer Prometheus.", "short", {"up": "sum(up)"}, "stat"),
        Panel("Version", "Version that answers, and on how many replicas. Two for long: one did not follow.",
              "short", {"{{version}}": "count by (version) (etegrec_model_info == 1)"}, "stat"),
        Panel("Recommendations", "Recommendations a second, of all kinds.", "reqps",
              {"all": f"sum(rate(etegrec_answers_total{RATE}))"}, "stat"),
        Panel("p99", "One in a hundred recommendations takes longer.", "s",
              {"p99": quantiles("etegrec_request_seconds", RECOMMEND)["p99"]}, "stat", bad_from=0.5),
        Panel("Popular", "Share of the recommendations that popular items answered, not the model.", "percentunit",
              {"popular": share('etegrec_answers_total{served_by="popular"}', "etegrec_answers_total")}, "stat"),
    ),
)  # fmt: skip

ANSWERS = Row(
    "Answers",
    (
        Panel("Requests by endpoint", "Requests a second.", "reqps",
              rates("etegrec_request_seconds_count", "endpoint")),
        Panel("Requests by status", "429, 503 and 504 are refusals for want of time or of a model; 500 is a bug.",
              "reqps", rates("etegrec_request_seconds_count", "status")),
        Panel("Latency of POST /recommend", "From the first byte of a request to its answer.", "s",
              quantiles("etegrec_request_seconds", RECOMMEND)),
        Panel("Answers by source", "What served recommendations. More from `popular` than usual: see the next panel.",
              "reqps", rates("etegrec_answers_total", "served_by"), is_stacked=True),
        Panel("Popular answers by reason", "docs/OPERATIONS.md, 'Popular answers', says what to do about each.",
              "reqps", rates("etegrec_popular_answers_total", "reason"), is_stacked=True),
        Panel("Degraded answers", "Recommendations made while the store did not answer.", "reqps",
              {"degraded": f"sum(rate(etegrec_degraded_answers_total{RATE}))"}),
        Panel("Left to chance", "Recommendations with places that chance filled, and such places.", "reqps",
              {"recommendations": f"sum(rate(etegrec_explored_answers_total{RATE}))",
               "places": f"sum(rate(etegrec_explored_places_total{RATE}))"}),
    ),
)  # fmt: skip

QUEUE = Row(
    "Admission and queue",
    (
        Panel("Refusals by problem", "`queue-full` and `deadline-missed`: add replicas or cores.", "reqps",
              rates("etegrec_rejected_total", "slug")),
        Panel("Wait for a batch", "Rises first when there is too much to do.", "s",
              quantiles("etegrec_queue_wait_seconds")),
        Panel("Requests waiting", "Above ETEGREC_QUEUE_SIZE the next one is refused.", "short",
              {"{{instance}}": "max by (instance) (etegrec_queue_length)"}),
        Panel("Out of time", "Requests whose budget was too short, by where that showed.", "reqps",
              {**rates("etegrec_deadline_misses_total", "at"),
               "left the queue": f"sum(rate(etegrec_dropped_before_compute_total{RATE}))"}),
        Panel("Narrowed searches", "Requests searched with fewer beams, because time was short.", "reqps",
              rates("etegrec_narrowed_total", "beam_width")),
        Panel("Connections", "Open now, and given up a second, by reason.", "short",
              {"open {{instance}}": "sum by (instance) (etegrec_connections)",
               "given up: {{reason}}": f"sum by (reason) (rate(etegrec_connections_dropped_total{RATE}))"}),
    ),
)  # fmt: skip

STAGES = Row(
    "Stages",
    (
        Panel("Time of a batch by stage", "Prepare builds arrays, compute searches, finish ranks.", "s",
              quantiles("etegrec_stage_seconds", by="stage")),
        Panel("CPU by stage", "Cores that each stage keeps busy.", "short",
              rates("etegrec_stage_cpu_seconds_total", "stage"), is_stacked=True),
        Panel("Requests of a batch", "Mean number of requests that are computed together.", "short",
              {"mean": f"sum(rate(etegrec_batch_size_sum{RATE})) / sum(rate(etegrec_batch_size_count{RATE}))"}),
        Panel("Result cache", "Share of the lookups that found an answer.", "percentunit",
              {"hits": share('etegrec_result_cache_lookups_total{result="hit"}',
                             "etegrec_result_cache_lookups_total")}),
        Panel("Memory", "Resident memory. It must hold two versions, for a moment three, while a new one is loaded.",
              "bytes", {"{{instance}}": "process_resident_memory_bytes"}),
        Panel("CPU", "Cores that a process keeps busy.", "short",
              {"{{instance}}": f"rate(process_cpu_seconds_total{RATE})"}),
    ),
)  # fmt: skip

MODEL = Row(
    "Model and catalogue",
    (
        Panel("Replicas by version", "A promotion moves all replicas within seconds.", "short",
              {"{{version}} on {{engine}}": "count by (version, engine) (etegrec_model_info == 1)"}, is_stacked=True),
        Panel("Loads of models", "In the last hour. Anything but `ok`: /health/ready and the log say why.", "short",
              {"{{result}}": "sum by (result) (increase(etegrec_model_loads_total[1h]))",
               "model store unreadable": "sum(increase(etegrec_store_check_failures_total[1h]))",
               "refused: {{part}}": "max by (part) (etegrec_model_part_refused)"}),
        Panel("Items", "Items of the catalogue by state. `new` came after the version was published.", "short",
              {"{{state}}": "max by (state) (etegrec_catalogue_items)"}),
        Panel("Catalogue lag", "Changes that a replica lacks. Above 0 for minutes: it does not catch up.", "short",
              {"{{instance}}": "max by (instance) (etegrec_catalogue_lag)"}),
        Panel("Catalogue changes", "Changes a second that replicas read, and snapshots in the last hour.", "short",
              {"{{result}}": f"sum by (result) (rate(etegrec_catalogue_changes_total{RATE}))",
               "snapshots {{result}}": "sum by (result) (increase(etegrec_snapshots_total[1h]))"}),
        Panel("Time of a catalogue step", "To compute a new catalogue from a batch of changes.", "s",
              quantiles("etegrec_catalogue_step_seconds")),
    ),
)  # fmt: skip

EVENTS = Row(
    "Events and store",
    (
        Panel("Events", "Events a second, by what became of them.", "cps", rates("etegrec_events_total", "result")),
        Panel("Refused requests with events", "By problem: the sender is wrong, or the store is away or full.", "reqps",
              rates("etegrec_event_requests_rejected_total", "slug")),
        Panel("Store", "1 while the store answers and takes writes. Read-only 1: it is full.", "short",
              {"up {{instance}}": "min by (instance) (etegrec_live_up)",
               "read-only": "max(etegrec_live_read_only)"}),
        Panel("Events waiting for training", "At the limit the oldest are dropped (no line: no limit).", "short",
              {"waiting": "max(etegrec_event_stream_length)", "limit": "max(etegrec_event_stream_limit) > 0"}),
        Panel("Oldest event waiting", "Longer than between two passes of retraining: see the trainer.", "s",
              {"age": "max(etegrec_event_stream_lag_seconds)"}),
        Panel("Losses", "In the last hour; anything above 0 deserves a look at the log.", "short",
              {"events dropped": "sum(increase(etegrec_events_dropped_total[1h]))",
               "values that do not decode": "sum(increase(etegrec_corrupt_values_total[1h]))"}),
        Panel("Imported histories", "Share of the training data's users whose history is stored.", "percentunit",
              {"imported": "max(etegrec_history_import_progress)"}),
    ),
)  # fmt: skip

KEYS = Row(
    "Keys",
    (
        Panel("Requests by key", "Requests a second with a valid key.", "reqps",
              rates("etegrec_key_requests_total", "key")),
        Panel("Refused by limits of keys", "Requests a second above what was agreed.", "reqps",
              {"{{key}} {{limit}}": f"sum by (key, limit) (rate(etegrec_key_refusals_total{RATE}))"}),
        Panel("Wrong keys", "Requests a second with a key that is unknown or has expired; 0 of the file: it is wrong.",
              "short", {"wrong keys": f"sum(rate(etegrec_wrong_keys_total{RATE}))",
                        "keys file is right": "min(etegrec_keys_file_ok)"}),
    ),
)  # fmt: skip

FEED = Row(
    "Feed (etegrec-ingest)",
    (
        Panel("Records", "Records a second, by what became of them.", "cps",
              rates("etegrec_ingest_records_total", "result")),
        Panel("Behind", "Age of the newest message that is recorded.", "s",
              {"{{instance}}": "max by (instance) (etegrec_ingest_lag_seconds)"}),
        Panel("Refused records by field", "They lie in the file of dead letters.", "cps",
              rates("etegrec_ingest_refused_total", "field")),
    ),
)  # fmt: skip

RETRAINING = Row(
    "Retraining (metrics.prom)",
    (
        Panel("Test NDCG@10", "Of the newest pass: the candidate and the live version.", "short",
              {"{{model}}": "max by (model) (etegrec_retrain_ndcg)"}),
        Panel("Limits of the gate", "By result. Held back 1: a person should read the verdict.", "short",
              {"{{result}}": "max by (result) (etegrec_retrain_limits)",
               "held back": "max(etegrec_retrain_held_back)"}),
        Panel("Drift", "Above its limit, what came since is unlike what the live version was trained on.", "short",
              {"{{of}}": "max by (of) (etegrec_retrain_drift_psi)",
               "limit {{of}}": "max by (of) (etegrec_retrain_drift_limit)"}),
    ),
)  # fmt: skip

ROWS = (NOW, ANSWERS, QUEUE, STAGES, MODEL, EVENTS, KEYS, FEED, RETRAINING)
