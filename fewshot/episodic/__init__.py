"""Methods of an episode: each a callable from an Episode to log-probabilities (..., n_queries, n_way)."""
