"""The commands ``fewshot episode``, ``train``, ``tune`` and ``methods``."""
