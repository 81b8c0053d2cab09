"""The study in Optuna: its database, its locks and its trials."""
