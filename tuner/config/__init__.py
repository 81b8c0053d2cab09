"""The study file: reading it, checking all of it, and turning its names into classes and functions."""
