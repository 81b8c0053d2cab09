"""The mathematics of a search, without Optuna: which values to try next, and which trials continue."""
