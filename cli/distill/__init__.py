"""The command ``fewshot distill``."""
