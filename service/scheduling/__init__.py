"""Dynamic batching: the queue, admission (the 429 rule), and the estimate of how long batches take."""
