"""What trainings are forked from: it has all imported that they need."""

from tuner.importing import importing

with importing():
    import tuner.training  # noqa: F401
