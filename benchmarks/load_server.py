"""The server that the clients read from: what four services answer, and streams that were made before anybody asks.

Everything it sends of a stream is kept, so that sending 50,000 tokens is a few system calls: the client is the
bottleneck, whichever it is. It is no emulator: it believes what it is told, and what no client here sends is a 404.

- ``h2o``: chat-ui before text-generation-inference: settings, conversation, stream, stop, DELETE.
- ``openassistant``: chat, two messages, events, DELETE.
- ``allenai``: one request that creates and streams, DELETE.
- OpenAI: one request, which creates nothing.

``streams.py`` says what the model's name means. A stream with a pace sends each token in a write of its own. One that
is late delays those after it, but never makes two go out together.

Prints its ports as a line of JSON (``tls`` if it was given a certificate), and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import secrets
import select
import selectors
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from streams import Stream

_HEAD = b"HTTP/1.1 %s\r\ncontent-type: %s\r\n%s\r\n"
_OK, _JSON = b"200 OK", b"application/json"


class State:
    """The conversations there are, and what has been done."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}
        self.created = self.deleted = self.tokens = 0

    def create(self, model: str, name: str | None = None) -> str:
        """A new conversation, whose model may be told later."""
        name = name or secrets.token_hex(12)
        self.created += 1
        self.models[name] = model
        return name

    def delete(self, name: str) -> bool:
        """Whether there was one."""
        found = self.models.pop(name, None) is not None
        self.deleted += found
        return found

    def count(self) -> dict[str, float]:
        """For the laboratory."""
        return {
            "created": self.created,
            "deleted": self.deleted,
            "open": len(self.models),
            "tokens": self.tokens,
            "cpu": time.process_time(),
        }


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, state: State, loop: asyncio.AbstractEventLoop) -> None:
        self._state = state
        self._loop = loop
        self._rest = b""
        self._stream: Stream | None = None
        self._sent = 0
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio has set TCP_NODELAY."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """How some clients say goodbye."""
        self._stream = None

    def data_received(self, data: bytes) -> None:
        """Requests, cut anywhere."""
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            head = self._rest[:end]
            found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            length = end + 4 + (int(found[1]) if found else 0)
            if len(self._rest) < length:
                break
            body, self._rest = self._rest[end + 4 : length], self._rest[length:]
            method, target, _ = head.partition(b"\r\n")[0].decode("ascii").split(" ")
            self._answer(method, target, body)

    # -- What is said ------------------------------------------------------------------------------------------------

    def _answer(self, method: str, target: str, body: bytes) -> None:
        state, url = self._state, urlsplit(target)
        first, _, name = url.path[1:].partition("/")
        name, _, action = name.partition("/")
        if target == "/count":
            self._send(state.count())
        elif first == "settings":
            self._send({"type": "redirect", "status": 303, "location": "/"})
        elif first == "conversation" and method == "POST" and not name:
            self._send({"conversationId": state.create(json.loads(body)["model"])})
        elif first == "conversation" and method == "POST" and action == "stop-generating":
            self._send({})
        elif first == "conversation" and method == "POST" and name in state.models:
            self._begin("tgi", state.models[name])
        elif first == "conversation" and method == "DELETE" and state.delete(name):
            self._send(None)
        elif first == "api":
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            self._answer_open_assistant(method, url.path, query, body)
        elif target == "/v4/message/stream":
            # The only field whose value looks so.
            model = re.search(rb"\r\n\r\n(\d+-\d+(-stamped)?)\r\n", body)
            state.create("", "msg_F6G7H8I9J0")
            self._begin("olmo", model[1].decode() if model else "")
        elif first == "v3" and method == "DELETE" and state.delete(action):
            self._send(None)
        elif target == "/v1/chat/completions":
            self._begin("openai", json.loads(body)["model"])
        else:
            self._send({"message": "Not found"}, b"404 Not Found")

    def _answer_open_assistant(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        state = self._state
        if (method, path) == ("POST", "/api/chat"):
            self._send({"id": state.create("")})
        elif (method, path) == ("DELETE", "/api/chat") and state.delete(query["chat_id"]):
            self._send(None)
        elif (method, path) == ("POST", "/api/chat/prompter_message"):
            self._send({"id": secrets.token_hex(12)})
        elif (method, path) == ("POST", "/api/chat/assistant_message"):
            message = json.loads(body)
            state.models[message["chat_id"]] = message["model_config_name"]
            self._send({"id": secrets.token_hex(12)})
        elif (method, path) == ("POST", "/api/chat/events"):
            self._begin("oasst", state.models[query["chat_id"]])
        elif (method, path) == ("GET", "/api/chat/message"):
            self._send({"state": "complete", "content": ""})
        else:
            self._send({"message": "Not found"}, b"404 Not Found")

    def _send(self, value: object, status: bytes = _OK) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self._transport.write(_HEAD % (status, _JSON, b"content-length: %d\r\n" % len(body)) + body)

    # -- A stream ----------------------------------------------------------------------------------------------------

    def _begin(self, shape: str, model: str) -> None:
        stream = Stream.named(shape, model)
        head = _HEAD % (_OK, stream.content_type, b"transfer-encoding: chunked\r\n")
        if not stream.period:
            self._state.tokens += stream.count
            if stream.stamped:
                self._transport.write(head + stream.start() + stream.token(0) + stream.end())
            else:
                self._transport.write(head)
                self._transport.write(stream.whole())
            return
        self._transport.write(head + stream.start())
        self._stream, self._sent, self._due = stream, 0, self._loop.time()
        self._next()

    def _next(self) -> None:
        if self._stream is None:  # they have hung up
            return
        if self._sent == self._stream.count:
            self._transport.write(self._stream.end())
            self._stream = None
            return
        self._transport.write(self._stream.token(self._sent))
        self._sent += 1
        self._state.tokens += 1
        period = self._stream.period
        self._due = max(self._due + period, self._loop.time() + period / 2)
        self._loop.call_at(self._due, self._next)


class PunctualSelector(selectors.DefaultSelector):
    """One whose time-outs are not rounded up to milliseconds, as those of epoll are."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """An epoll object can be waited for like any other file."""
        if timeout is None or timeout > 0:
            select.select([self], [], [], timeout)
        return super().select(0)


async def serve(certificate: str) -> None:
    """Until standard input ends."""
    loop, state = asyncio.get_running_loop(), State()

    async def listen(tls: ssl.SSLContext | None) -> int:
        server = await loop.create_server(lambda: Connection(state, loop), "127.0.0.1", 0, ssl=tls, backlog=2048)
        return server.sockets[0].getsockname()[1]

    ports = {"port": await listen(None)}
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(Path(certificate, "server.pem"), Path(certificate, "server.key"))
        ports["tls"] = await listen(tls)
    print(json.dumps(ports), flush=True)
    over = asyncio.Event()
    loop.add_reader(sys.stdin, over.set)
    await over.wait()


def main() -> None:
    """Serve, with the certificate in the directory of the first argument, if there is one."""
    precise = hasattr(select, "epoll")
    loop = asyncio.SelectorEventLoop(PunctualSelector() if precise else None)
    gc.disable()  # nothing here goes in circles
    loop.run_until_complete(serve(sys.argv[1] if len(sys.argv) > 1 else ""))


if __name__ == "__main__":
    main()
