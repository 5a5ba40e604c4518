"""Entry point of ``python -m service.ingest``, which is ``etegrec-ingest``."""

from service.ingest.cli import main

main()
