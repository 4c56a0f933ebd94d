"""The server that the clients read from: chat-ui's five requests, and streams serialised before anybody asks.

Everything it sends of a stream is made once and kept, so that sending 50,000 tokens is one system call in a loop: the
client is the bottleneck, whichever it is. It is no emulator: what no client here sends is a 404.

The model decides the pace, and ``max_new_tokens`` the length:

- ``burst``: everything at once, as fast as the client reads. Each token is an HTTP chunk, as it is on a real server;
  the chunks are coalesced into large writes, as they are when the server is faster than the client.
- ``paced``: one token a millisecond, each in a write of its own. One that is late delays those after it; it never makes
  two go out together.

Prints its port as a line of JSON, and ends when its standard input does.
"""

from __future__ import annotations

import functools
import itertools
import json
import secrets
import socket
import sys
import threading
import time
from typing import Any, BinaryIO

PACE = 0.001  # seconds from one token to the next

# A tokenizer's pieces of an answer. One in ten is escaped in JSON or is not ASCII, as in prose.
PIECES = (
    "The", " sky", " is", " blue", " because", " air", " scatters", " the", " short", " waves", " of", " sun", "light",
    " far", " more", " than", " the", " long", " ones", ":", " blue", " reaches", " your", " eyes", " from", " every",
    " side", ",", ' "', "red", '"', " mostly", " straight", " from", " the", " sun", ".", "\n\n", " —", " 🌤",
)  # fmt: skip

_HEAD = b"HTTP/1.1 %s\r\ncontent-type: %s\r\n%s\r\n"


def text(count: int) -> str:
    """What a stream of so many tokens says."""
    return "".join(itertools.islice(itertools.cycle(PIECES), count))


@functools.cache
def _chunks(count: int) -> list[bytes]:
    """The body of a stream, cut as it is written when paced: the tokens, then the end."""
    tokens = [
        _chunk({"id": 1000 + 37 * at, "text": piece, "logprob": -0.00390625 * (3 + 2 * at), "special": False})
        for at, piece in enumerate(PIECES)
    ]
    # A real server repeats the whole text here. It is left empty because no real reply is as long as these: in one
    # line, theirs would be more than some clients take.
    end = _chunk({"id": 11, "text": "<|endoftext|>", "logprob": -0.5, "special": True}, generated="")
    return [*itertools.islice(itertools.cycle(tokens), count), end + b"0\r\n\r\n"]


def _chunk(token: dict[str, Any], generated: str | None = None) -> bytes:
    value = {"token": token, "generated_text": generated, "details": None}
    event = f"data:{json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


@functools.cache
def _body(count: int) -> bytes:
    return b"".join(_chunks(count))


class LoadServer:
    """The conversations there are, and what has been done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, str] = {}
        self._created = self._deleted = self._tokens = 0

    def serve(self, listener: socket.socket) -> None:
        """Accept for ever; each connection has a thread."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._converse, args=[connection], daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with connection, connection.makefile("rb") as requests:
                while request := _read(requests):
                    self._answer(connection, *request)
        except ConnectionError:
            pass  # how some clients say goodbye

    def _answer(self, connection: socket.socket, method: str, path: str, body: bytes) -> None:
        _, _, name = path.removeprefix("/").partition("/")
        if (method, path) == ("GET", "/count"):
            _send(connection, b"200 OK", self._count())
        elif (method, path) == ("POST", "/settings"):
            _send(connection, b"200 OK", {"type": "redirect", "status": 303, "location": "/"})
        elif (method, path) == ("POST", "/conversation"):
            _send(connection, b"200 OK", {"conversationId": self._create(json.loads(body)["model"])})
        elif method == "POST" and name in self._models:
            self._generate(connection, self._models[name], json.loads(body)["parameters"]["max_new_tokens"])
        elif method == "DELETE" and self._delete(name):
            _send(connection, b"200 OK", None)
        else:
            _send(connection, b"404 Not Found", {"message": "Conversation not found"})

    def _count(self) -> dict[str, float]:
        with self._lock:
            return {
                "created": self._created,
                "deleted": self._deleted,
                "open": len(self._models),
                "tokens": self._tokens,
                "cpu": time.process_time(),
            }

    def _create(self, model: str) -> str:
        name = secrets.token_hex(12)
        with self._lock:
            self._created += 1
            self._models[name] = model
        return name

    def _delete(self, name: str) -> bool:
        with self._lock:
            found = self._models.pop(name, None) is not None
            self._deleted += found
            return found

    def _generate(self, connection: socket.socket, model: str, count: int) -> None:
        connection.sendall(_HEAD % (b"200 OK", b"text/event-stream", b"transfer-encoding: chunked\r\n"))
        if model == "paced":
            for chunk in _chunks(count):
                due = time.monotonic() + PACE
                connection.sendall(chunk)
                time.sleep(max(0.0, due - time.monotonic()))
        else:
            connection.sendall(_body(count))
        with self._lock:
            self._tokens += count


def _read(requests: BinaryIO) -> tuple[str, str, bytes] | None:
    """The next request: method, path, body; `None` when the client has gone."""
    line = requests.readline()
    if not line:
        return None
    method, path, _ = line.decode("ascii").split()
    length = 0
    while (header := requests.readline().lower()).strip():
        if header.startswith(b"content-length:"):
            length = int(header.partition(b":")[2])
    return method, path, requests.read(length)


def _send(connection: socket.socket, status: bytes, value: object) -> None:
    body = b"" if value is None else json.dumps(value).encode()
    connection.sendall(_HEAD % (status, b"application/json", b"content-length: %d\r\n" % len(body)) + body)


def main() -> None:
    """Serve until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threading.Thread(target=LoadServer().serve, args=[listener], daemon=True).start()
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
