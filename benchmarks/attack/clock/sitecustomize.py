"""Clock that another process can move: Python imports this module at start if its folder is on PYTHONPATH.

The file that ATTACK_CLOCK_FILE names holds the seconds by which ``time.time`` is off.
"""

import os
import time
from pathlib import Path

FRESH_S = 0.05
"""Time for which the content of the file is remembered."""

_file = Path(os.environ["ATTACK_CLOCK_FILE"])
_true_time = time.time
_offset_s = 0.0
_read_at = 0.0


def _moved_time() -> float:
    global _offset_s, _read_at
    if time.monotonic() - _read_at > FRESH_S:
        _read_at = time.monotonic()
        _offset_s = float(_file.read_text() or 0)
    return _true_time() + _offset_s


def _moved_time_ns() -> int:
    return int(_moved_time() * 1e9)


time.time = _moved_time
time.time_ns = _moved_time_ns
