"""A study in Optuna: database, locks, trials, samplers and pruners.

``connection.py`` opens the databases that are supported, ``locks.py`` locks a study in them, and ``StudyStore`` in
``study_store.py`` asks for and tells trials. Only the coordinator writes.
"""
