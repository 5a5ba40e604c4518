"""Work in shards: the interface "compute shard i of n", and its runners on one machine and on a Ray cluster."""
