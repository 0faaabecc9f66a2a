"""What a fake provider has charged."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Hashable
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from pathlib import Path

import attrs

from blossom_async.errors import ConfigurationError

__all__ = ["Charge", "Ledger"]


@attrs.frozen(kw_only=True)
class Charge:
    """One charge. ``unit`` is ``pollen`` or ``usd``; ``amount`` is exact, and 0 if pictures are free.

    ``request_id`` is the ``x-request-id`` of the answer, whether or not that answer arrived.
    """

    at: datetime
    provider: str
    request_id: str
    idempotency_key: str | None
    model: str
    prompt_sha256: str
    seed: int | None
    amount: Decimal
    unit: str


class Ledger:
    """Charges in the order in which they were made.

    With a ``path`` each charge is on disk before its answer starts, so it survives ``kill -9`` of the
    server; charges of an earlier run are loaded. Raises ``ConfigurationError`` if another server uses the
    file or it is not a ledger.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._descriptor: int | None = None
        self._charges: list[Charge] = []
        self._keys: set[str | None] = set()
        if path is None:
            return
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            text = path.read_bytes()
            self._enter(_parsed(path, text))
            os.ftruncate(self._descriptor, text.rfind(b"\n") + 1)  # a torn line is not a charge
        except BlockingIOError as exc:
            self.close()
            raise ConfigurationError(
                f"the ledger {path} is in use by another server: stop that one, or give each its own file"
            ) from exc
        except BaseException:
            self.close()
            raise

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """A ledger file as it is now, even while a server in another process writes to it.

        Raises ``FileNotFoundError``, and ``ConfigurationError`` if it is not a ledger.
        """
        ledger = cls()
        ledger._enter(_parsed(path, path.read_bytes()))
        return ledger

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All charges, oldest first."""
        return tuple(self._charges)

    @property
    def total(self) -> Decimal:
        """The sum of all amounts."""
        return sum((charge.amount for charge in self._charges), Decimal(0))

    def double_charges(
        self, by: Callable[[Charge], Hashable | None] = attrgetter("idempotency_key")
    ) -> list[tuple[Charge, ...]]:
        """Groups of two or more charges for the same thing; empty if everything was paid at most once.

        Charges are grouped by idempotency key, or by the value of ``by``, such as
        ``lambda charge: charge.prompt_sha256``. A charge for which that is None is in no group.
        """
        groups: dict[Hashable, list[Charge]] = {}
        for charge in self._charges:
            if (mark := by(charge)) is not None:
                groups.setdefault(mark, []).append(charge)
        return [tuple(group) for group in groups.values() if len(group) > 1]

    def knows_key(self, idempotency_key: str) -> bool:
        """Whether a charge was made under this key."""
        return idempotency_key in self._keys

    def add(self, charge: Charge) -> None:
        """Adds a charge. If there is a file, it is on disk when this returns."""
        if self._descriptor is not None:
            os.write(self._descriptor, _line(charge))
            os.fsync(self._descriptor)
        self._enter([charge])

    def _enter(self, charges: list[Charge]) -> None:
        self._charges += charges
        self._keys |= {charge.idempotency_key for charge in charges}

    def close(self) -> None:
        """Closes the file. The charges stay readable."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _line(charge: Charge) -> bytes:
    fields = attrs.asdict(charge) | {"at": charge.at.isoformat(), "amount": str(charge.amount)}
    return json.dumps(fields).encode() + b"\n"


def _parsed(path: Path, text: bytes) -> list[Charge]:
    charges = []
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), 1):
        try:
            fields = json.loads(line)
            fields |= {"at": datetime.fromisoformat(fields["at"]), "amount": Decimal(fields["amount"])}
            charges.append(Charge(**fields))
        except (ValueError, TypeError, KeyError, ArithmeticError) as exc:
            raise ConfigurationError(
                f"{path}: line {number} is not a charge; allowed: a JSON object per line; use another file"
            ) from exc
    return charges
