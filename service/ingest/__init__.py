"""A running feed of events into the store: from Kafka, from files of a folder or bucket, from standard input."""
