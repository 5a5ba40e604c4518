"""The sealed bundle of a model version: publishing, verifying and reading it, and the registry of versions."""
