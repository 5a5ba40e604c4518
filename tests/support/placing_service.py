"""Service of a process of its own that can place new items, by their hash: ``python -m tests.support.placing_service``.

It takes its settings from the environment, like the real command; the fake engine serves the small bundle.
"""

from __future__ import annotations

import uvicorn

from service.app import create_app
from service.settings import Settings
from tests.support.hash_coder import hash_coder


def main() -> None:
    """Serve until killed."""
    settings = Settings.load()
    uvicorn.run(create_app(settings, coders=hash_coder), port=settings.port, log_level="critical")


if __name__ == "__main__":
    main()
