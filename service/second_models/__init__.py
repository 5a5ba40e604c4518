"""Models beside the live one: a canary's candidate, which answers a share, and a shadow, which answers nobody."""
