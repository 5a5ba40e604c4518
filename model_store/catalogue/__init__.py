"""The catalogue of a model version as packed columns, and its changes."""
