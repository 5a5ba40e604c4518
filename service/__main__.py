"""``python -m service`` is ``etegrec-serve``."""

from service.cli import main

main()
