"""Scores: of classification, of incremental sessions, of clusterings, and comparisons of methods."""
