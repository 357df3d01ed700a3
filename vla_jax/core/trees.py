"""Names for the leaves of a pytree, and masks chosen by those names.

A leaf is named by its path, `decoder/attention/query`, whatever the containers on the way are
(dict, tuple, named tuple, dataclass). Freezing, weight decay, checkpoints and reports use the
same names.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vla_jax.core import errors


def path_name(path: tuple[Any, ...]) -> str:
    """Spells a key path of `jax.tree_util`, for instance `a/0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by name, in the order of the tree."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Turns `{"a/b": leaf}` into `{"a": {"b": leaf}}`: the names' tree in plain dicts."""
    out: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = out
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return out


def map_with_name(
    function: Callable[..., Any],
    tree: Any,
    *rest: Any,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Maps a function over a pytree, handing it the name of each leaf first.

    Args:
      function: called as `function(name, leaf, *leaves_of_rest)`.
      tree: any pytree.
      *rest: pytrees with the structure of `tree`, or with subtrees where `tree` has leaves.
      is_leaf: tells subtrees that count as leaves.

    Returns:
      A pytree with the structure of `tree`.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, *others: function(path_name(path), leaf, *others),
        tree,
        *rest,
        is_leaf=is_leaf,
    )


def size(tree: Any) -> int:
    """Returns the number of elements in all arrays (or `jax.ShapeDtypeStruct`s) of a pytree."""
    return sum(leaf.size for leaf in jax.tree_util.tree_leaves(tree))


def mask(tree: Any, pattern: str) -> Any:
    """Marks the leaves whose whole name matches a regular expression.

    Args:
      tree: any pytree.
      pattern: matched against the whole name, so `vision/.*` is everything below `vision`.
        The empty pattern marks nothing.

    Returns:
      A pytree of bool with the structure of `tree`.

    Raises:
      UserError: the pattern is not a regular expression, or it is not empty and matches no
        leaf. A freeze that freezes nothing is a typing error, not a wish.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise errors.UserError(
            f"parameter pattern {pattern!r}", expected="a regular expression", found=str(error)
        ) from error
    marked = map_with_name(lambda name, _: compiled.fullmatch(name) is not None, tree)
    if pattern and not any(jax.tree_util.tree_leaves(marked)):
        names = list(named_leaves(tree))
        raise errors.UserError(
            f"parameter pattern {pattern!r}",
            expected="a match with some whole leaf name",
            found=f"none among {len(names)} leaves such as {', '.join(names[:3])}",
        )
    return marked
