"""``python -m training`` is ``etegrec-train``."""

from training.cli import main

main()
