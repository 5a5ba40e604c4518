"""Traces: spans of requests, events and retraining, by OpenTelemetry where it is turned on."""
