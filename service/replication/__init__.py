"""Copies of the catalogue: one per replica, built from a snapshot and kept current by the change stream."""
