"""Fake image providers for tests: real servers on loopback, faults on demand, and a ledger of every charge.

docs/testing.md shows how to use them.
"""

from blossom_async.testing.exchange import SeenRequest
from blossom_async.testing.faults import Fault, FaultPlan
from blossom_async.testing.ledger import Charge, Ledger
from blossom_async.testing.openai import FakeOpenAI
from blossom_async.testing.pollinations import FakePollinations

__all__ = ["Charge", "FakeOpenAI", "FakePollinations", "Fault", "FaultPlan", "Ledger", "SeenRequest"]
