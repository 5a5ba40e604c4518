"""Off-policy evaluation: how another version or placement would have done, from what was shown and clicked."""
