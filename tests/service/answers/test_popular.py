"""The log says why popular items answer, and is not filled by it."""

from __future__ import annotations

from structlog.testing import capture_logs

from service.answers.popular import LOGGED_EVERY_S, FallbackReason, PopularLog


def test_each_reason_is_logged_once_a_minute_with_the_answers_since() -> None:
    now = 0.0
    popular_log = PopularLog(lambda: now)
    with capture_logs() as logs:
        for _ in range(5):
            popular_log.record(FallbackReason.BUDGET, "v1")
        popular_log.record(FallbackReason.NO_HISTORY, "v1")
        now = LOGGED_EVERY_S
        popular_log.record(FallbackReason.BUDGET, "v2")

    said = [(entry["reason"], entry["answers"], entry["version"]) for entry in logs]
    assert said == [("budget", 1, "v1"), ("no_history", 1, "v1"), ("budget", 5, "v2")]
    assert {entry["log_level"] for entry in logs} == {"info"}
