"""What the three emulated services have in common: records, faults, generations, and streams that can be damaged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, ClassVar

import trio

from ._request import RecordedRequest
from ._script import Fault, FaultBox, Script
from ._server import ClientGone, Headers, Responder, serve_stream


class Service:
    """One emulated service: its state, its routes, and the nursery of what it does in the background.

    Its collections may be read from any thread; all else belongs to the server's.

    Attributes:
        requests: every request so far, in the order in which they were complete.
        faults: what goes wrong.
        errors: exceptions of the emulator itself: bugs.
        connections: how many are open now.
    """

    name: ClassVar[str]
    script_class: ClassVar[type[Script]]
    steps: ClassVar[tuple[str, ...]]
    body_limit: int = 1 << 20

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[RecordedRequest] = []
        self.faults: FaultBox = FaultBox(self.steps, script.faults)
        self.errors: list[BaseException] = []
        self.connections: int = 0
        self.running: dict[str, str] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def conversations(self) -> tuple[str, ...]:
        """The ids of what lives on this server and has to be deleted one day."""
        raise NotImplementedError

    @property
    def generating(self) -> tuple[str, ...]:
        """The ids of the conversations (deleted ones too) in which a generation is running."""
        return tuple(sorted(set(self.running.values())))

    @property
    def worker_crashes(self) -> int:
        """How often a worker was broken by deleting what it worked on."""
        return 0

    def provider_fields(self, url: str) -> dict[str, Any]:
        """What a provider is constructed with to use this server."""
        return {"base_url": url}

    def step(self, request: RecordedRequest) -> str:
        """What the service calls this request."""
        raise NotImplementedError

    async def answer(self, request: RecordedRequest, respond: Responder, fault: Fault) -> None:
        """Do what is asked; ``fault`` is there for streams (`EventStream`)."""
        raise NotImplementedError

    async def handle(self, request: RecordedRequest, respond: Responder) -> None:
        """Record a request, let its fault strike, and answer it."""
        request = replace(request, step=self.step(request))
        self.requests.append(request)
        fault = self.faults.take(request.step)
        if fault.delay:
            await trio.sleep(fault.delay)
        if fault.hang:
            await respond.gone.wait()
        elif fault.drop:
            await respond.abort()
        elif fault.status is not None:
            body = fault.body.encode() if isinstance(fault.body, str) else fault.body
            await respond.send(fault.status, body, list(fault.headers.items()))
        else:
            respond.lose, respond.delay = fault.lose_response, fault.delay_response
            try:
                await self.answer(request, respond, fault)
            except ClientGone:
                return

    async def serve_stream(self, stream: trio.abc.Stream) -> None:
        """Serve one connection, within `serving`."""
        self.connections += 1
        try:
            await serve_stream(stream, self, chunk_bytes=self.script.chunk_bytes, keep_alive=self.script.keep_alive)
        except Exception as error:
            self.errors.append(error)
        finally:
            self.connections -= 1

    async def serve(self, serving: Callable[[trio.Nursery], Awaitable[None]]) -> None:
        """Be there, background work included, while ``serving(nursery)`` runs; then everything ends at once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await serving(nursery)
            nursery.cancel_scope.cancel()

    def start_soon(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Background work, which no client's leaving touches."""
        if self._nursery is None:
            raise RuntimeError("the service is not being served")
        self._nursery.start_soon(self._guarded, work, *args)

    async def _guarded(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await work(*args)
        except Exception as error:
            self.errors.append(error)


class StreamOver(ClientGone):
    """A fault has ended this stream."""


class EventStream:
    """The body of a streaming answer, with the damage that a `Fault` orders."""

    def __init__(self, respond: Responder, fault: Fault) -> None:
        self._respond = respond
        self._fault = fault
        self._sent = 0

    async def start(self, status: int, headers: Headers) -> None:
        """The head of the answer."""
        await self._respond.start(status, headers)
        await self._damage()

    async def content(self, data: bytes) -> None:
        """One content event: it counts."""
        if self._fault.inject_at == self._sent:
            await self._respond.write(self._fault.inject)
        await self._respond.write(data)
        self._sent += 1
        await self._damage()

    async def other(self, data: bytes) -> None:
        """A heartbeat, a place in the queue: it does not count."""
        await self._respond.write(data)

    async def end(self) -> None:
        """The end of the body."""
        if self._fault.inject_at == self._sent:
            await self._respond.write(self._fault.inject)
        await self._respond.end()

    async def _damage(self) -> None:
        fault, sent = self._fault, self._sent
        if sent == fault.end_after:
            await self._respond.end()
        elif sent in (fault.cut_after, fault.reset_after):
            await self._respond.abort(reset=sent == fault.reset_after)
        elif sent == fault.stall_after:
            await self._respond.gone.wait()
        else:
            return
        raise StreamOver
