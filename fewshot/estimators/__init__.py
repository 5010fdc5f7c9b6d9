"""Base of the scikit-learn-style estimators: rows, labels of any kind, state."""
