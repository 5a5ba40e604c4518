"""The service as the console sees it: calls, metrics, and errors in words."""
