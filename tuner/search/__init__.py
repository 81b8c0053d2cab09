"""The search of a study: which values to try next, given the lr curves and the values of earlier trials."""
