"""The texts of a search, as nodes of a trie."""

from typing import Self

import jax
import jax.numpy as jnp
from flax import struct

from crnn_jax.text.alphabet import BLANK

NOWHERE = -1
"""The parent of a node that is not used, and the node of a text that does not exist."""


class Trie(struct.PyTreeNode):
    """All texts that were ever in the beam of one image.

    A text has one number, its node, also if it left the beam and came back. So texts are equal if
    and only if their nodes are.

    Attributes:
      parents: (N,), the node of each text without its last character. Node 0 is the empty text, and
        its own parent. NOWHERE if the node is not used.
      classes: (N,), the class of each text's last character.
    """

    parents: jax.Array
    classes: jax.Array

    @classmethod
    def create(cls, size: int) -> Self:
        """The trie of the empty text, with room for `size` others."""
        parents = jnp.full(1 + size, NOWHERE, jnp.int32).at[0].set(0)
        return cls(parents, jnp.full(1 + size, BLANK, jnp.int32))

    def add(
        self, first: jax.Array, parents: jax.Array, classes: jax.Array, is_new: jax.Array
    ) -> tuple["Trie", jax.Array]:
        """Adds texts where `is_new`, unless they are known; returns all their nodes.

        Args:
          first: a node; it and the nodes after it are not used.
          parents: (W,), those of the texts.
          classes: (W,), their last ones.
          is_new: (W,) bool.
        """
        is_child = self.parents[None, :] == parents[:, None]
        equal = is_child & (self.classes[None, :] == classes[:, None])
        known = jnp.where(equal, jnp.arange(len(self.parents))[None, :], NOWHERE).max(-1)
        nodes = jnp.where(known == NOWHERE, first + jnp.arange(len(parents)), known)
        added = jnp.where(is_new & (known == NOWHERE), parents, NOWHERE)
        update = jax.lax.dynamic_update_slice_in_dim
        trie = Trie(update(self.parents, added, first, 0), update(self.classes, classes, first, 0))
        return trie, nodes

    def labels(self, nodes: jax.Array, length: int) -> jax.Array:
        """Returns the classes of texts (W,) of at most `length` characters, (W, length)."""

        def step_up(nodes: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            return self.parents[nodes], self.classes[nodes]

        _, backward = jax.lax.scan(step_up, nodes, None, length)
        backward = backward.T
        place = (backward != BLANK).sum(-1, keepdims=True) - 1 - jnp.arange(length)[None, :]
        found = jnp.take_along_axis(backward, jnp.maximum(place, 0), -1)
        return jnp.where(place >= 0, found, BLANK)
