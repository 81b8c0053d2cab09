"""One group of trials, trained in one process."""
