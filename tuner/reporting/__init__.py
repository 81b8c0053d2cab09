"""The HTML report, and the process that updates plots, report and best model in MLflow."""
