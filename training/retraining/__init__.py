"""Retraining on recorded events: a candidate is trained, compared and promoted only if it is not worse."""
