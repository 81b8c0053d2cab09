"""The study file: reading it, checking all of it, and turning its names into classes and functions.

``registry.py`` has the names of components, ``sampler_options.py`` those of samplers and pruners; ``loader.py`` reads a
whole file.
"""
