"""Commands of ``etegrec-train``, by what they are about; :mod:`training.cli` puts them together."""
