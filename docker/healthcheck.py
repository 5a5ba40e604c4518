"""Health check of a container: exit 0 if the server in it says that it is well, else 1 with the reason.

``healthcheck.py`` asks the service, whether it is ready to answer POST /recommend; ``healthcheck.py 8088 /health`` asks
another port for another path.

Python and not curl, which the image does not have. ``http.client`` takes no proxy from the environment.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_S = 3.0
LONGEST_REASON = 1000


def problem(port: int, path: str) -> str:
    """Why the server on this machine is not well; empty if it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(LONGEST_REASON).decode(errors="replace")
    except (OSError, http.client.HTTPException) as cause:
        return f"no answer: {cause}"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"{answer.status}: {body}"


if __name__ == "__main__":
    given = sys.argv[1:] or [os.environ.get("ETEGREC_PORT", "8000"), "/health/ready"]
    sys.exit(problem(int(given[0]), given[1]) or 0)
