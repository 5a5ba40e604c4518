"""The sealed bundle of one model version: writing, verifying and reading it, and the registry of all versions."""
