"""What libraries leave behind when they are imported, and the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["importing"]


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage meanwhile, nor later on in what is there by then, until ``gc.unfreeze``.

    The libraries make a million objects that stay: each time that all are looked through takes a third of a second.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
