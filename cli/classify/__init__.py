"""The command ``fewshot classify``."""
