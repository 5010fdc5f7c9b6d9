"""What all scikit-learn-style estimators share: rows, labels of any kind, state."""
