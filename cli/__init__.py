"""Words and files to library calls and back: the command ``fewshot``."""
