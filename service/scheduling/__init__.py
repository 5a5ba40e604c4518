"""Dynamic batching: the queue, admission, and the estimate of how long batches take."""
