"""The bytes of pictures as objects of a bucket: S3 and what speaks its protocol, Google, Azure.

Of obstore only the blocking half is used, in threads: its other half can abort the interpreter at exit.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from blossom_async.errors import ConfigurationError, Overloaded
from blossom_async.gateway.storage.blobs import Reserved, file_name
from blossom_async.gateway.storage.single_flight import SingleFlight
from blossom_async.gateway.storage.threads import Threads
from blossom_async.models import FORMATS, IMAGE_ID

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ObjectStore

__all__ = ["BucketBlobs"]

_THREADS = 32  # each waits for one answer of the store
_LOOK_HOLDS_S = 10.0
_PROBES = 256  # names: gateways rarely write the same one at once, which stores slow down
_TIMES: dict[str, Any] = {
    "client_options": {
        "allow_http": True,  # for an endpoint that says http://
        "connect_timeout": timedelta(seconds=2),
        "timeout": timedelta(seconds=30),
    },
    "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=5)},
}
_TIMES_OF_A_LOOK: dict[str, Any] = {
    "client_options": {**_TIMES["client_options"], "timeout": timedelta(seconds=3)},
    "retry_config": {"max_retries": 0},
}

_CODE = re.compile(r"<Code>([0-9A-Za-z]{1,64})</Code>", re.ASCII)
_STATUS = re.compile(r"status code: ([0-9]{3})", re.ASCII)
# Where machines of a cloud ask for credentials.
_OF_THE_MACHINE = re.compile(r"/latest/(api|meta-data)/|/computeMetadata/|/metadata/identity/")
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_BEYOND_THE_END = {"InvalidRange", "HTTP 416"}
_NO_ANSWER = "no answer"
_NO_CREDENTIALS = "no usable credentials"
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}

_log = logging.getLogger("blossom_async.gateway")


class BucketBlobs:
    """Objects below ``url`` and ``folder``, named by ``file_name``.

    Credentials come from the environment, in the names of the store's own tools. Who stores a picture first,
    wins. ``listed``: whether ``files_before`` lists the objects, which costs a request for each thousand.
    """

    def __init__(
        self,
        url: str,
        folder: str,
        extensions: Collection[str] = FORMATS,
        *,
        listed: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._folder = folder
        self._extensions = extensions
        self._listed = listed
        self._clock = clock
        self._file = re.compile(rf"{folder}/../({IMAGE_ID})\.({'|'.join(extensions)})", re.ASCII)
        self._threads = Threads(_THREADS)
        self._well_until = -1.0
        self._looks: SingleFlight[None, None] = SingleFlight()
        self._store: ObjectStore
        self._looked_at: ObjectStore

    async def open(self) -> None:
        """Tries everything that the gateway needs of the bucket."""
        self._threads.open()
        self._looks = SingleFlight()  # those of an earlier event loop never end
        await self._threads.run(self._prepare)

    async def close(self) -> None:
        await self._threads.close()

    async def check(self) -> None:
        """Stores some bytes, unless something was stored within the last 10 s."""
        if self._clock() >= self._well_until:
            await self._looks.run(None, partial(self._threads.run, self._probe))

    async def reserve(self, image_id: str, extension: str, size: int) -> Reserved | None:
        """Nothing, but ``check`` has passed: a bucket has no room to set aside."""
        await self.check()
        return None

    async def release(self, reserved: Reserved | None) -> None:
        pass

    async def discard(self, image_id: str) -> None:
        pass  # an object is there whole or not at all

    async def put(
        self,
        image_id: str,
        extension: str,
        data: bytes,
        reserved: Reserved | None = None,
        headers: Mapping[str, str] | None = None,
        head: bytes = b"",
    ) -> bytes:
        return await self._threads.run(self._put, self._key(image_id, extension), head, data, headers or {})

    async def read(self, image_id: str, extension: str, start: int = 0, stop: int | None = None) -> bytes:
        return await self._threads.run(self._read, self._key(image_id, extension), start, stop)

    def at_hand(self, image_id: str, extension: str, size: int) -> None:
        pass  # objects have no descriptor

    async def size(self, image_id: str, extension: str) -> int:
        return await self._threads.run(self._size, self._key(image_id, extension))

    async def delete(self, image_id: str, extension: str, *, lasting: bool = True) -> None:
        await self._threads.run(self._delete, self._key(image_id, extension))

    async def folders(self) -> list[str]:
        return [self._folder] if self._listed else []

    async def files_before(self, folder: str, then: datetime) -> list[tuple[str, str]]:
        return await self._threads.run(self._list, folder, then)

    def _key(self, image_id: str, extension: str) -> str:
        return f"{self._folder}/{file_name(image_id, extension, self._extensions)}"

    def _prepare(self) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError as exc:
            raise ConfigurationError(
                f"blobs={self._url} needs the extra object-store; "
                "install it with: pip install '.[object-store]' in the checkout"
            ) from exc
        try:
            self._store = from_url(self._url, **_TIMES)
            self._looked_at = from_url(self._url, **_TIMES_OF_A_LOOK)
        except _raised():
            raise self._unusable(_NO_CREDENTIALS) from None  # the text may show them
        probe = f"probe/{secrets.token_hex(8)}"
        try:
            version = obstore.put(self._store, probe, b"first", use_multipart=False)["version"]
            fault = self._fault_with_second(probe)
            obstore.delete(self._store, probe)
        except _raised() as exc:
            raise self._unusable(_reason(exc), refused=_is_refusal(exc)) from None
        if fault is not None:
            raise ConfigurationError(
                f"The store behind blobs={self._url} {fault} the header If-None-Match, so that two gateways "
                "could overwrite each other's pictures. Use a store that honours it, or the data folder."
            )
        if version is not None:
            _log.warning(
                "the bucket keeps old versions: deleted pictures stay until a rule of it removes them"
            )
        self._well_until = self._clock() + _LOOK_HOLDS_S

    def _fault_with_second(self, key: str) -> str | None:
        """What the store does wrong with a second writer of an object; None if it keeps the first's."""
        try:
            return "ignores" if _stored(self._store, key, b"second", {}) == b"second" else None
        except _raised() as exc:
            if _is_refusal(exc) or _reason(exc) == _NO_ANSWER:
                raise
            return f"answers {_reason(exc)} to"

    def _unusable(self, reason: str, *, refused: bool = False) -> ConfigurationError:
        if reason in _NO_BUCKET:
            advice = "There is no such bucket: create it, or correct the name."
        elif reason in _OTHER_REGION:
            advice = "The bucket is in another region: set AWS_REGION to that one."
        elif reason == _NO_ANSWER:
            advice = "No store answered: check the network, and AWS_ENDPOINT_URL for a store of your own."
        elif refused or reason == _NO_CREDENTIALS:
            advice = (
                f"Set {_CREDENTIALS[self._url.partition(':')[0]]} in the environment to credentials that may "
                "read, write, list and delete there."
            )
        else:
            advice = "What answers is no store of this kind: check its address."
        return ConfigurationError(f"blobs={self._url} cannot be used ({reason}). {advice}")

    def _probe(self) -> None:
        import obstore

        with self._errors("stored"):
            name = f"probe/{secrets.randbelow(_PROBES):02x}"
            obstore.put(self._looked_at, name, b"", use_multipart=False)
        self._well_until = self._clock() + _LOOK_HOLDS_S

    def _put(self, key: str, head: bytes, data: bytes, headers: Mapping[str, str]) -> bytes:
        with self._errors("stored"):
            stands = _stored(self._store, key, head + data, headers)
        self._well_until = self._clock() + _LOOK_HOLDS_S
        return stands

    def _read(self, key: str, start: int, stop: int | None) -> bytes:
        import obstore

        if stop is not None and stop <= start:
            return b""
        options: GetOptions = {}
        if stop is not None:
            options = {"range": (start, stop)}
        elif start:
            options = {"range": {"offset": start}}
        with self._errors("read"):
            try:
                return bytes(obstore.get(self._store, key, options=options).bytes())
            except _raised() as exc:
                if _reason(exc) in _BEYOND_THE_END:
                    return b""
                raise

    def _size(self, key: str) -> int:
        import obstore

        with self._errors("read"):
            return obstore.head(self._store, key)["size"]

    def _delete(self, key: str) -> None:
        import obstore

        with self._errors("deleted"), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def _list(self, folder: str, then: datetime) -> list[tuple[str, str]]:
        import obstore

        found = []
        with self._errors("read"):
            for some in obstore.list(self._store, folder):
                for meta in some:
                    name = self._file.fullmatch(meta["path"])
                    if name is not None and meta["last_modified"] < then:
                        found.append((name[1], name[2]))
        return found

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        """Translates what obstore raises, without the text: an answer of the store may show a key."""
        try:
            yield
        except _raised() as exc:
            reason = _reason(exc)
            if isinstance(exc, FileNotFoundError) and done == "read" and reason not in _NO_BUCKET:
                raise FileNotFoundError("the bucket has no such object") from None
            self._well_until = -1.0
            raise Overloaded(
                f"The picture could not be {done} in its bucket ({reason}); send the request again.",
                code="storage_failed",
            ) from None


def _raised() -> tuple[type[Exception], ...]:
    """What obstore raises."""
    from obstore.exceptions import BaseError

    return BaseError, OSError, ValueError


def _stored(store: ObjectStore, key: str, data: bytes, headers: Mapping[str, str]) -> bytes:
    """The bytes stored under the key: these, or those that were there before."""
    import obstore
    from obstore.exceptions import AlreadyExistsError

    try:
        # Not in parts: a process that ends between two parts leaves them behind, where nobody sees them.
        obstore.put(store, key, data, mode="create", attributes=dict(headers), use_multipart=False)
    except AlreadyExistsError:  # of another gateway, or of a try whose answer was lost
        return bytes(obstore.get(store, key).bytes())
    return data


def _is_refusal(exc: Exception) -> bool:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    return isinstance(exc, PermissionDeniedError | UnauthenticatedError)


def _reason(exc: Exception) -> str:
    """The reason of a failure: the store's error code if it gave one."""
    text = str(exc)
    if _OF_THE_MACHINE.search(text):
        return _NO_CREDENTIALS
    if found := _CODE.search(text):
        return found[1]
    if found := _STATUS.search(text):
        return f"HTTP {found[1]}"
    if "Wanted range starting at" in text:
        return "InvalidRange"
    return _NO_ANSWER if "error sending request" in text else type(exc).__name__
