"""Names of the attributes and parameters that studies and trials have in Optuna."""

__all__ = [
    "ADDED",
    "ANSWER",
    "ATTEMPT",
    "CONFIGURATION",
    "CONFIRMS",
    "CONSTANT_LR",
    "DATA",
    "ENDED",
    "FURTHER",
    "FURTHER_DIRECTIONS",
    "GAIN",
    "IDENTIFIER",
    "IDENTITY",
    "PARTS",
    "PREDICTION",
    "SEED",
    "SOURCES",
    "STARTS",
    "TEST",
    "TRIALS",
    "VALIDATION_IMAGES",
]

# Attributes of a study.
IDENTITY = "identity"
IDENTIFIER = "identifier"
TEST = "test"
VALIDATION_IMAGES = "validation images"
SOURCES = "sources"
TRIALS = "trials"
"""The number of trials last requested for the study."""

ENDED = "ended"
"""The number of finished trials with which the budget allowed no further one; 0 while it allows one."""

STARTS = "starts"
"""The values of earlier studies in the first trials, as read when the study began."""

GAIN = "possible gain"
"""How much better the best value can become, and after how many complete trials that was computed."""

ANSWER = "answer"
"""The result of a study's final runs, with fresh seeds, and after how many trials."""

PREDICTION = "prediction"
"""Whether the pruner ``predicted`` was used, and why, as a clause."""

CONFIRMS = "confirms"
"""Key of the identity: the identifier of the study that this one confirms."""

DATA = "data digest"
"""Key of the identity: the digest of the data sets."""

FURTHER = "objective.further"
"""Key of the identity: the metrics of the objectives after the first one."""

FURTHER_DIRECTIONS = "objective.further directions"
"""Key of the identity: whether large or small values of each of these are better."""

# Attributes of a trial.
ADDED = "added"
"""Whether its values were added after the study began."""

CONSTANT_LR = "constant_lr"

PARTS = "parts"
"""When each earlier part of its run began and ended, in seconds since 1970, by the epoch after which it ended."""

ATTEMPT = "attempt"
"""How many times a failed trial was retried."""

# Parameters of the trials of a study over given configurations.
CONFIGURATION, SEED = "configuration", "seed"
