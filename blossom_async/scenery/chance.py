"""Repeatable randomness: one stream per purpose, so that adding a star never moves a mountain."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["Chance"]


class Chance:
    """Named random streams that depend on nothing but the words and the seed.

    BLAKE2b rather than `hash()`, which differs between processes. Size and quality are left out on
    purpose: they must not change where the sun stands.
    """

    __slots__ = ("_key",)

    def __init__(self, words: str, seed: int) -> None:
        material = f"{seed}\0{words}".encode("utf-8", "surrogatepass")  # lone surrogates are legal in str
        self._key = hashlib.blake2b(material, digest_size=32).digest()

    def stream(self, purpose: str) -> np.random.Generator:
        """A generator that gives the same numbers whenever the same purpose is asked for."""
        digest = hashlib.blake2b(purpose.encode(), key=self._key, digest_size=16).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
