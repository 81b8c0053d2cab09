"""A study in MLflow: written while it runs, and read afterwards.

``store.py`` opens the stores that are supported, and ``store_errors.py`` explains their errors. Only the coordinator
and the review process, which draws the plots, write.
"""
