"""Change one value in the text of a study file, and leave everything else unchanged, including comments."""

import yaml

__all__ = ["with_searched"]

SPACE = "search_space"


def with_searched(text: str, path: str, value: str) -> str:
    r"""Return the text of a study file in which the search space has a value for a path.

    Args:
        text: The text, which is a valid study file.
        path: A dotted path, such as ``optimizer.initial_lr``.
        value: The value, as YAML in one line.

    Raises:
        ValueError: If the place cannot be changed without touching more than the value.

    >>> print(with_searched("search_space:  # what varies\n  a.b: {low: 1, high: 2}  # a remark\n", "a.b", "[3]"))
    search_space:  # what varies
      a.b: [3]  # a remark
    <BLANKLINE>
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise ValueError("the file is in YAML flow style, {...}")
    space = next((node for key, node in root.value if key.value == SPACE), None)
    if space is None:
        return f"{text.rstrip()}\n{SPACE}:\n  {path}: {value}\n"
    if not isinstance(space, yaml.MappingNode) or space.flow_style:
        raise ValueError(f"{SPACE} is in YAML flow style, {{...}}")
    for key, node in space.value:
        if key.value == path:
            return _replaced(text, key.end_mark.index, node, value)
        if path.startswith(f"{key.value}."):
            raise ValueError(f"{key.value} itself is searched, so {path} belongs in each of its choices")
    first = space.value[0][0].start_mark
    start = first.index - first.column
    return f"{text[:start]}{' ' * first.column}{path}: {value}\n{text[start:]}"


def _replaced(text: str, key_end: int, node: yaml.Node, value: str) -> str:
    """Return the text with another value for a key."""
    start, end = node.start_mark.index, _end_of(node)
    if "#" in text[start:end]:
        raise ValueError("there are comments inside the value")
    colon = text.index(":", key_end) + 1
    between = text[colon:start]
    if "\n" in between:  # a block below its key moves up to it
        if "#" in between:
            raise ValueError("there are comments inside the value")
        between = " "
    return f"{text[:colon]}{between}{value}{text[end:]}"


def _end_of(node: yaml.Node) -> int:
    """Return where the text of a node ends; the end of a block includes what follows it up to the next key."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end_of(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)
