"""Search learning-rate schedules with Optuna, train with Lightning, record in MLflow."""
