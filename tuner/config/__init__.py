"""The study file: what it says, and whether that can be run."""
