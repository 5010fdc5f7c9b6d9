"""Experiments as library calls: episodes, incremental sessions, category discovery."""
