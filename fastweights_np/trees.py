"""Nested dicts of arrays, such as a network's parameters: mapping over them, and flat dicts with path names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SEPARATOR = "/"


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return the tree with function(leaf) for each leaf; dicts, lists, tuples and named tuples branch, None stays."""
    if isinstance(tree, dict):
        return {key: map_leaves(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_leaves(function, value) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_leaves(function, value) for value in tree)
    return tree if tree is None else function(tree)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"layer/W": w} for {"layer": {"W": w}}, in the tree's order.

    Raises ValueError for a dict that `unflatten` could not restore: an empty one, or a key that is not text or holds
    "/". Raises TypeError for an object that is not a dict.
    """
    if not isinstance(tree, dict):
        raise TypeError(f"tree: expected a dict of arrays, got {type(tree).__name__}")
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str) or SEPARATOR in key:
            raise ValueError(f"{prefix}{key!r}: expected keys that are text without {SEPARATOR!r}; rename it")
        if isinstance(value, dict) and not value:
            raise ValueError(f"{prefix}{key}: expected arrays in this dict, got an empty one; leave it away")
        flat |= flatten(value, f"{prefix}{key}{SEPARATOR}") if isinstance(value, dict) else {prefix + key: value}
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """Return {"layer": {"W": w}} for {"layer/W": w}; inverts `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *branches, leaf = path.split(SEPARATOR)
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = value
    return tree
