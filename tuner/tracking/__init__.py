"""A study in MLflow: written while it runs, and read afterwards."""
