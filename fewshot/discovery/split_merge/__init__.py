"""Split-and-merge search for the number of classes."""
