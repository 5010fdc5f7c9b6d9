"""Shared parts of the commands: options, output, tables, wording, result folders."""
