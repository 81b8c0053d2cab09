"""The one form in which a settings object refuses a value."""

__all__ = ["require"]


def require(settings: object, field: str, holds: bool, rule: str) -> None:
    """Raise ValueError with the rule and the received value, unless the rule holds.

    >>> from types import SimpleNamespace
    >>> require(SimpleNamespace(decay_steps=0), "decay_steps", False, "decay_steps > 0")
    Traceback (most recent call last):
    ValueError: decay_steps > 0 must hold, but got decay_steps=0
    """
    if not holds:
        raise ValueError(f"{rule} must hold, but got {field}={getattr(settings, field)!r}")
