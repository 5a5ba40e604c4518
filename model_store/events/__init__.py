"""The interaction event, and the embedded log that records events."""
