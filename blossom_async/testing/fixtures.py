"""Fixtures for pytest: ``pytest_plugins = ["blossom_async.testing.fixtures"]`` in your ``conftest.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from blossom_async.testing import FakeOpenAI, FakePollinations

__all__ = ["fake_openai", "fake_pollinations"]


@pytest_asyncio.fixture
async def fake_pollinations() -> AsyncIterator[FakePollinations]:
    """A running ``FakePollinations``, new for each test."""
    async with FakePollinations() as server:
        yield server


@pytest_asyncio.fixture
async def fake_openai() -> AsyncIterator[FakeOpenAI]:
    """A running ``FakeOpenAI``, new for each test."""
    async with FakeOpenAI() as server:
        yield server
