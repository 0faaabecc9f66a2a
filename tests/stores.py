"""Object stores for tests: moto in a thread, seaweedfs as a process. Both speak S3, on loopback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

__all__ = ["BUCKET", "Moto", "environment", "keep_versions", "moto"]

BUCKET = "pictures"
_SECRET = "the-secret-of-the-tests"


def environment(endpoint: str) -> dict[str, str]:
    """What a program needs to know of the store, in the names of Amazon's tools."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": _SECRET,
        "AWS_REGION": "us-east-1",
    }


class Moto:
    """A store in memory, which takes any credentials. What it holds outlasts ``stop``."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server: ThreadedMotoServer
        self._port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """At the same address as before."""
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()

    def stop(self) -> None:
        """Refuses connections from now on."""
        self._server.stop()


@contextmanager
def moto() -> Iterator[Moto]:
    """A store that runs, with one bucket."""
    store = Moto()
    store.start()
    try:
        with _client(store.endpoint) as client:
            client.create_bucket(Bucket=BUCKET)
        yield store
    finally:
        store.stop()


def keep_versions(endpoint: str, bucket: str) -> None:
    """Creates a bucket whose objects are never quite deleted."""
    with _client(endpoint) as client:
        client.create_bucket(Bucket=bucket)
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


@contextmanager
def _client(endpoint: str) -> Iterator[Any]:
    import boto3

    told = environment(endpoint)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        region_name=told["AWS_REGION"],
    )
    try:
        yield client
    finally:
        client.close()
