"""Solvers that several episodic methods share: Adam, Sinkhorn, logistic regression in the dual."""
