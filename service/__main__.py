"""Entry point of ``python -m service``, which is ``etegrec-serve``."""

from service.cli import main

main()
