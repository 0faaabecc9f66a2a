"""Processes of a gateway, and how others see that one has ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from blossom_async.gateway.storage.owners import Owner
from tests.forking import FORKS

pytestmark = FORKS


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
    assert [path.stem for path in tmp_path.iterdir()] == [left.name]
    left.close()


def test_a_fork_does_not_end_its_parents_life(tmp_path: Path) -> None:
    """It may close what it inherited."""
    parent, other = Owner(tmp_path), Owner(tmp_path)
    parent.open()
    other.open()
    in_a_fork(parent.close)
    assert not other.has_ended(parent.name)
    parent.close()
    other.close()


def test_a_fork_does_not_prolong_its_parents_life(tmp_path: Path) -> None:
    """A worker that a gateway forked lives on, and the gateway has ended all the same."""
    killed, other = Owner(tmp_path), Owner(tmp_path)
    ready, begun = os.pipe()
    stay, leave = os.pipe()

    def fork_and_die() -> None:
        killed.open()
        if os.fork() == 0:
            os.close(leave)
            os.write(begun, b".")
            os.read(stay, 1)  # ends when the test closes its end
        os._exit(0)

    in_a_fork(fork_and_die)
    other.open()
    os.read(ready, 1)
    assert [path.stem for path in tmp_path.iterdir() if path.stem != other.name] == [killed.name]
    assert other.has_ended(killed.name)
    for descriptor in (ready, begun, stay, leave):
        os.close(descriptor)
    other.close()


def test_a_name_without_a_file_has_ended(tmp_path: Path) -> None:
    """Somebody else has seen its end before."""
    owner = Owner(tmp_path)
    owner.open()
    assert owner.has_ended("0123456789abcdef")
    owner.close()
