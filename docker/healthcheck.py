"""Health check of the service's container: exit 0 if it is ready to answer POST /recommend, else 1 with the reason.

Python and not curl, which the image does not have. ``http.client`` takes no proxy from the environment.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_S = 3.0
LONGEST_REASON = 1000


def problem(port: int) -> str:
    """Why the service on this machine is not ready; empty if it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read(LONGEST_REASON).decode(errors="replace")
    except (OSError, http.client.HTTPException) as cause:
        return f"no answer: {cause}"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"{answer.status}: {body}"


if __name__ == "__main__":
    sys.exit(problem(int(os.environ.get("ETEGREC_PORT", "8000"))) or 0)
