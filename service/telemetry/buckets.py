"""Bounds of the buckets of histograms."""

from __future__ import annotations

LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds of a whole request, or of what takes as long."""

STAGE_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds of one stage of a request."""

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0)
"""Shares of 1."""

BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Requests of a batch."""
