"""The commands ``fewshot extract``, ``extractors``, ``import`` and ``inspect``."""
