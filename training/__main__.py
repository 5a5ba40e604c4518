"""Entry point of ``python -m training``, the same as ``etegrec-train``."""

from training.cli import main

main()
