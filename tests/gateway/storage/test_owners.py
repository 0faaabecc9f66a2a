"""Processes of a gateway, and how others see that one has ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from blossom_async.gateway.storage.owners import Owner

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def in_a_fork(work: Callable[[], object]) -> None:
    """Runs it in a forked process to its end."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the status tells the parent
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_an_owner_is_alive_until_it_closes(tmp_path: Path) -> None:
    """To the others and to itself; then its file is gone too."""
    first, other = Owner(tmp_path), Owner(tmp_path)
    first.open()
    other.open()
    assert not first.has_ended(first.name)
    assert not other.has_ended(first.name)
    first.close()
    assert other.has_ended(first.name)
    assert [path.stem for path in tmp_path.iterdir()] == [other.name]
    other.close()


def test_an_owner_that_died_has_ended(tmp_path: Path) -> None:
    """Without a word: its lock ends with its process."""
    died, left = Owner(tmp_path), Owner(tmp_path)

    def die() -> None:
        died.open()
        os._exit(0)

    in_a_fork(die)
    left.open()
    assert [path.stem for path in tmp_path.iterdir() if path.stem != left.name] == [died.name]
    assert left.has_ended(died.name)
    left.close()


def test_a_fork_neither_holds_nor_ends_its_parents_life(tmp_path: Path) -> None:
    """A worker that the gateway forked may outlive it, and may close what it inherited."""
    parent, other = Owner(tmp_path), Owner(tmp_path)
    parent.open()
    other.open()
    in_a_fork(parent.close)
    assert not other.has_ended(parent.name)
    stay, leave = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(leave)
        os.read(stay, 1)  # ends when the parent closes its end
        os._exit(0)
    try:
        parent.close()
        assert other.has_ended(parent.name)
    finally:
        os.close(leave)
        os.close(stay)
        os.waitpid(child, 0)
        other.close()


def test_a_name_without_a_file_has_ended(tmp_path: Path) -> None:
    """Somebody else has seen its end before."""
    owner = Owner(tmp_path)
    owner.open()
    assert owner.has_ended("0123456789abcdef")
    owner.close()
