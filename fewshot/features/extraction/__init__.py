"""Images to features: batches, the extraction loop, in memory, on Ray."""
