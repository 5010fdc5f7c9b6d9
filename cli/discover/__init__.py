"""The command ``fewshot discover``."""
