"""The command line as a module: ``python -m fewshot``."""

from importlib import import_module

if __name__ == "__main__":
    import_module("fewshot.cli.main").main()
