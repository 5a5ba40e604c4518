"""Measurements beyond accuracy: use of the codes, meaning of prefixes, and where beams fail."""
