"""The command ``fewshot probe``."""
