"""Retraining on recorded events: a candidate is trained and promoted only if it is not worse."""
