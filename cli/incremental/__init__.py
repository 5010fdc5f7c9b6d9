"""The commands ``fewshot calibrate``, ``learn``, ``predict`` and ``forget``."""
