"""Retraining: recorded events in, a candidate trained, compared and promoted only if it is not worse."""
