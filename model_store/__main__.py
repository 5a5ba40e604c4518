"""Entry point of ``python -m model_store``, which is ``etegrec-models``."""

from model_store.cli import main

main()
