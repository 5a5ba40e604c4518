"""A copy of what one Redis holds in another: under another namespace, or in the partitions of a cluster."""
