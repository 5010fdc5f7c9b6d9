"""The training loop: state, optimiser, schedules, collapse monitor."""
