"""What trainings are forked from: it has all imported that they need, and no garbage is looked for in that again."""

import gc

gc.disable()  # see `running._importing`
import tuner.training  # noqa: E402, F401

gc.freeze()
gc.enable()
