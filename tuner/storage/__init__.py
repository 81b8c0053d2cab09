"""A study in Optuna: database, locks, trials, samplers and pruners."""
