"""``python -m model_store`` is ``etegrec-models``."""

from model_store.cli import main

main()
