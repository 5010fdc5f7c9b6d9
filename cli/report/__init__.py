"""The command ``fewshot report``."""
