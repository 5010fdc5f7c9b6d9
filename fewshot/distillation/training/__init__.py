"""The training loop: state, optimiser, schedules, order of the images, collapse monitor."""
