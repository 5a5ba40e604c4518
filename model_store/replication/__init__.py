"""The key schema and the value formats of the store that replicas share."""
