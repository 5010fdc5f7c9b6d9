"""A feature store: a folder of memory-mapped shards with a manifest."""
