"""A flood of one kind gives a line a second, which says how many it stands for."""

from __future__ import annotations

from structlog.testing import capture_logs

from service.telemetry.log_sampling import SampledLog


def test_each_kind_is_logged_once_a_second_with_the_number_left_out() -> None:
    times = iter((100.0, 100.5, 100.9, 101.1, 101.2, 101.3))
    sampled = SampledLog(clock=lambda: next(times))
    with capture_logs() as lines:
        for _ in range(5):
            sampled.warning("refused", reason="key")
        sampled.warning("other")
    assert lines == [
        {"event": "refused", "log_level": "warning", "reason": "key", "suppressed": 0},
        {"event": "refused", "log_level": "warning", "reason": "key", "suppressed": 2},
        {"event": "other", "log_level": "warning", "suppressed": 0},
    ]
