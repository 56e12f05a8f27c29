"""Nested dictionaries as flat ones, whose keys are paths such as params/head/bias."""

from collections.abc import Mapping
from typing import Any


def flatten(
    tree: Mapping[str, Any], separator: str = "/", keep_empty: bool = False
) -> dict[str, Any]:
    """Returns what nested dictionaries have by its path.

    Args:
      tree: the dictionaries.
      separator: between the keys of a path.
      keep_empty: whether an empty dictionary counts as a value; otherwise it is dropped.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and (value or not keep_empty):
            inner = flatten(value, separator, keep_empty)
            flat |= {f"{key}{separator}{path}": leaf for path, leaf in inner.items()}
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """Undoes `flatten`.

    Raises:
      ValueError: a path leads through a value.
    """
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(separator)
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(f"{key} is both a value and a group in {path}")
        node[last] = value
    return tree
