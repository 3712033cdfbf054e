"""A real S3 server, moto's, in a process of its own; behind a door that can be shut."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow.fs as arrow
import requests

# The first so many requests need no keys: they make the user who has them.
_UNCHECKED = 3
_ALL_OF_S3 = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": "*"}]}


class Door:
    """A port that leads to another one, until it is shut."""

    def __init__(self, to: int) -> None:
        self.to, self.port = to, 0
        self.open()

    def open(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self._through: list[socket.socket] = []
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._let_in, args=(self._listening,), daemon=True).start()

    def shut(self) -> None:
        """Whoever is inside is thrown out, and nobody is let in."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for the next
        self._listening.close()
        for one in list(self._through):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _let_in(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                one, other = listening.accept()[0], socket.create_connection(("127.0.0.1", self.to))
                self._through += [one, other]
                threading.Thread(target=self._lead, args=(one, other), daemon=True).start()

    def _lead(self, one: socket.socket, other: socket.socket) -> None:
        back = threading.Thread(target=self._carry, args=(other, one), daemon=True)
        back.start()
        self._carry(one, other)
        back.join()
        for end in (one, other):
            end.close()
            self._through.remove(end)

    def _carry(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(1 << 16):
                to.sendall(part)
        for one in (source, to):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class S3Server:
    """door: before the server. env: what lets one in."""

    def __init__(self, port: int) -> None:
        import boto3  # here, for whoever starts no server

        self.door = Door(port)
        anybody = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
        client: Any = boto3.client("iam", endpoint_url=f"http://127.0.0.1:{port}", **anybody)
        client.create_user(UserName="trainer")
        key = client.create_access_key(UserName="trainer")["AccessKey"]
        client.put_user_policy(UserName="trainer", PolicyName="all", PolicyDocument=json.dumps(_ALL_OF_S3))
        self.env = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        keys = dict(zip(("access_key", "secret_key"), self.env.values(), strict=True))
        self.fs = arrow.S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True, **keys
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.door.port}"

    def names(self, place: str) -> set[str]:
        """Of all objects below `bucket/prefix`."""
        found = self.fs.get_file_info(arrow.FileSelector(place, recursive=True, allow_not_found=True))
        return {one.path.removeprefix(f"{place}/") for one in found if one.type == arrow.FileType.File}

    def read(self, path: str) -> bytes:
        with self.fs.open_input_stream(path) as stream:
            return bytes(stream.readall())

    def write(self, path: str, content: bytes) -> None:
        with self.fs.open_output_stream(path) as stream:
            stream.write(content)


@contextmanager
def s3_server(log: Path) -> Iterator[S3Server]:
    """The server, up."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    env = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(_UNCHECKED)}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with open(log, "w") as stream:
        process = subprocess.Popen(command, env=env, stdout=stream, stderr=stream)
    try:
        until = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            with suppress(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/moto-api/", timeout=10)
                break
            time.sleep(0.1)
        yield S3Server(port)
    finally:
        process.kill()
        process.wait()
