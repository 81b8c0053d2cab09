"""Text that may come from a store or from somebody's code, for a terminal that obeys some characters."""

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Return a text with everything but letters, signs, spaces and line breaks written out.

    >>> printable("a\x1b[31mb\u202e\n")
    'a\\x1b[31mb\\u202e\n'
    """
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
