"""Puts the entries of `search_space` into the section `trial`, in place of the values that they search."""

from tuner.config import registry
from tuner.config.checker import FORM_OF_ONE_OF, FORM_OF_SPEC, alternatives
from tuner.config.document import Document, Keys, Node, Nodes, dotted
from tuner.config.search_space import is_spec
from tuner.text import shown

__all__ = ["place"]


def place(document: Document, trial: Node, space: Nodes) -> None:
    """Replace the values of `trial` that search_space names, components before their arguments.

    Args:
        document: The document, which records the faults.
        trial: The section `trial`.
        space: The entries of `search_space`, by their dotted paths in `trial`.
    """
    for key, node in sorted(space.items(), key=lambda item: item[0].count(".")):
        if isinstance(node.value, list):  # short for {choices: [...]}
            node = Node({"choices": Node(node.value, (*node.path, "choices"))}, node.path)
        if not (isinstance(node.value, dict) and ("one_of" in node.value or is_spec(node.value))):
            form = FORM_OF_ONE_OF if key in registry.KINDS else FORM_OF_SPEC
            document.fault(node.path, f"must be {form} (got {shown(node.raw)}){_advice(key, node)}.", spoils=True)
        _place(document, trial, key.split("."), node)


def _advice(key: str, node: Node) -> str:
    """Return the end of a sentence about an entry that is no range and no choice: how to write what may be meant."""
    if not isinstance(node.value, dict):
        return "; a fixed value belongs in trial"
    if nested := [name for name, each in node.value.items() if isinstance(each.value, dict) and is_spec(each.value)]:
        return f"; write {key}.{nested[0]}: {shown(node.value[nested[0]].raw)}"
    if len(node.value) > 1 and key in registry.KINDS and all(name in registry.KINDS[key] for name in node.value):
        return "; put them under one_of"
    return ""


def _place(document: Document, trial: Node, parts: list[str], node: Node) -> None:
    parent = trial
    for index, part in enumerate(parts[:-1]):
        inner = parent.child(part)
        if inner is None or inner.searched or not isinstance(inner.value, dict | list):
            _nowhere(document, parent, inner, parts[: index + 1], node.path)
            return
        parent = inner
    base = parent.child(parts[-1])
    if base is None and (parent is trial or isinstance(parent.value, list)):
        _nowhere(document, parent, base, parts, node.path)
        return
    if base is not None and is_spec(node.value) and document.is_from_command_line(base.path):
        document.fault(base.path, f"is searched; add --set {dotted(node.path)}=null to stop searching it.")
    parent.put(parts[-1], Node(node.value, node.path, base or Node({}, node.path)))


def _nowhere(document: Document, parent: Node, found: Node | None, parts: list[str], path: Keys) -> None:
    where = ".".join(parts)
    if found is None:
        known = [str(index) for index in range(len(parent.value))]
        if isinstance(parent.value, dict):
            known = [key for key, node in parent.value.items() if not (node.base and node.base.searched)]
        more = alternatives(parts[-1], known)
        if where == "trial":
            more = f" Paths begin within it: write {dotted(path[1:]).removeprefix('trial.')}."
        document.fault(path, f"trial has no {where}.{more}")
    elif found.searched:
        document.fault(path, f"{where} itself is searched: put this into {dotted(found.path)}.")
    else:
        document.fault(path, f"trial.{where} is not a mapping (got {shown(found.raw)}).")
