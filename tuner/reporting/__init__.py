"""The report, and the process that keeps plots and model in MLflow."""
