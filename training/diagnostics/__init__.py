"""Measurements beyond accuracy: how codes are used, what prefixes mean, where beams fail."""
