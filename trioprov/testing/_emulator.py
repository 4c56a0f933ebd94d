"""Starting an emulator: in a thread of its own for tests, or in the caller's nursery for a command line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any, Generic, TypeVar

import trio

from ._allenai import AllenAIService
from ._h2o import H2oService
from ._open_assistant import OpenAssistantService
from ._request import RecordedRequest
from ._script import Fault, Script
from ._service import Service

P = TypeVar("P")

_SERVICES: dict[str, type[Service]] = {
    service.name: service for service in (H2oService, OpenAssistantService, AllenAIService)
}
_JOIN = 5.0  # seconds that leaving waits for the thread; it takes milliseconds
_BACKLOG = 1024


class Emulator(Generic[P]):
    """A running emulator. Everything here may be used from any thread, and still be read when it has stopped.

    Attributes:
        url: where it listens, without a slash at the end.
        provider: a provider of the class asked for, with this address and whatever else it needs to be let in.
    """

    def __init__(self, service: Service, url: str, provider: P) -> None:
        self.url = url
        self.provider = provider
        self._service = service

    @property
    def name(self) -> str:
        """The service's name, which is its provider's."""
        return self._service.name

    @property
    def conversations(self) -> tuple[str, ...]:
        """The ids of the conversations that live on the server now, sorted."""
        return self._service.conversations

    @property
    def generating(self) -> tuple[str, ...]:
        """The ids of the conversations in which the server is generating now; a deleted one may still be."""
        return self._service.generating

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """Every request so far."""
        return tuple(self._service.requests)

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return self._service.connections

    @property
    def worker_crashes(self) -> int:
        """How often a worker was broken by deleting what it worked on (Open Assistant)."""
        return self._service.worker_crashes

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """Exceptions of the emulator itself; leaving `open_emulator` raises them."""
        return tuple(self._service.errors)

    def add_fault(self, fault: Fault) -> None:
        """From now on, ``fault`` too; it counts the requests that come after this call."""
        self._service.faults.add(fault)

    def __repr__(self) -> str:
        return f"<Emulator {self.name} at {self.url}, {len(self.conversations)} conversations>"


class _Running(AbstractAsyncContextManager[Emulator[P]]):
    """An emulator in a thread with a trio of its own. Nothing of it is a task or a scope of the caller's."""

    def __init__(self, provider_class: Callable[..., P], service: Service) -> None:
        self._provider_class = provider_class
        self._service = service
        self._scope = trio.CancelScope()
        self._lock = threading.Lock()
        self._token: trio.lowlevel.TrioToken | None = None
        self._stopping = False
        self._over = False
        self._thread: threading.Thread | None = None
        self._tell: Callable[[], None] | None = None

    async def __aenter__(self) -> Emulator[P]:
        if self._thread is not None:
            raise RuntimeError("an emulator is opened once")
        if _trio_token() is not None:
            await trio.lowlevel.checkpoint()
        listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        try:
            url = _url(listener.getsockname())
            emulator = Emulator(self._service, url, self._provider_class(**self._service.provider_fields(url)))
            self._thread = threading.Thread(
                target=self._run, args=(listener,), name=f"trioprov emulator of {self._service.name}", daemon=True
            )
            self._thread.start()
        except BaseException:
            listener.close()
            raise
        return emulator

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()
        token = _trio_token()
        thread = self._thread
        if thread is not None:
            if token is not None:
                done = trio.Event()
                with self._lock:
                    self._tell = lambda: token.run_sync_soon(done.set)
                    over = self._over
                if not over:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + _JOIN):
                        await done.wait()
            thread.join(_JOIN)
        for error in self._service.errors:
            if exc is None:
                raise RuntimeError(f"the emulator of {self._service.name} failed") from error
            exc.add_note(f"the emulator of {self._service.name} failed: {error!r}")

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            token = self._token
        if token is not None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._scope.cancel)

    def _run(self, listener: socket.socket) -> None:
        try:
            with listener:
                trio.run(self._serve, listener)
        except Exception as error:
            self._service.errors.append(error)
        finally:
            with self._lock:
                self._over = True
                if self._tell is not None:
                    with suppress(trio.RunFinishedError):
                        self._tell()

    async def _serve(self, listener: socket.socket) -> None:
        with self._lock:
            self._token = trio.lowlevel.current_trio_token()
            if self._stopping:
                return
        listener.setblocking(False)
        with self._scope:
            await _listen(self._service, [trio.SocketListener(trio.socket.from_stdlib_socket(listener))])


def open_emulator(provider_class: Callable[..., P], **script: Any) -> AbstractAsyncContextManager[Emulator[P]]:
    """Emulate the service of a provider class on a loopback port, for as long as the block lasts.

    The emulator runs in a thread of its own, so nothing that happens to your tasks (cancellation, a crash, the end of
    the loop) reaches it, and what it still holds afterwards is what your code left there. Entering and leaving use no
    nursery and no cancel scope of yours. It works under asyncio too. Time is real: an autojump clock would run ahead
    of the sockets.

    Args:
        provider_class: `H2o`, `OpenAssistant`, `AllenAI`, or anything with one of their names in ``name`` and a
            constructor that takes ``base_url`` (and ``cookies``, for Open Assistant).
        script: what it is to say and to do wrong: the fields of `Script` and, by the service, of `H2oScript`,
            `OpenAssistantScript` or `AllenAIScript`.

    Raises:
        LookupError: there is no emulator for this provider.
        TypeError: the service's script has no such field.
        RuntimeError: at the end, if the emulator itself failed.
    """
    service = _service_class(provider_class)
    return _Running(provider_class, service(service.script_class(**script)))


async def serve_emulator(
    provider_class: Callable[..., P],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    script: Script | None = None,
    task_status: trio.TaskStatus[Emulator[P]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Emulate a service in your own nursery (``await nursery.start(serve_emulator, H2o)``), until cancelled.

    Args:
        provider_class: as in `open_emulator`.
        host: where to listen.
        port: the port; 0 takes a free one.
        script: an instance of the service's own script class.
        task_status: gets the `Emulator`.

    Raises:
        LookupError: there is no emulator for this provider.
        TypeError: the script is another service's.
    """
    service_class = _service_class(provider_class)
    if script is None:
        script = service_class.script_class()
    elif not isinstance(script, service_class.script_class):
        raise TypeError(f"{service_class.name} takes a {service_class.script_class.__name__}, not {script!r}")
    service = service_class(script)
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    url = _url(listeners[0].socket.getsockname())
    emulator = Emulator(service, url, provider_class(**service.provider_fields(url)))
    await _listen(service, listeners, lambda: task_status.started(emulator))


def assert_no_orphans(emulators: Emulator[Any] | Iterable[Emulator[Any]], *more: Emulator[Any]) -> None:
    """Fail if a conversation is alive on any of the emulated servers.

    Raises:
        AssertionError: it names the services and the ids.
    """
    first = [emulators] if isinstance(emulators, Emulator) else list(emulators)
    orphans = [
        f"{emulator.name}: {', '.join(alive)}" for emulator in [*first, *more] if (alive := emulator.conversations)
    ]
    if orphans:
        raise AssertionError("conversations left on the server\n  " + "\n  ".join(orphans))


async def _listen(
    service: Service, listeners: list[trio.SocketListener], started: Callable[[], None] | None = None
) -> None:
    async def serving(nursery: trio.Nursery) -> None:
        if started is not None:
            started()
        await trio.serve_listeners(service.serve_stream, listeners, handler_nursery=nursery)

    await service.serve(serving)


def _service_class(provider_class: object) -> type[Service]:
    name: object = getattr(provider_class, "name", None)
    if not isinstance(name, str) or name not in _SERVICES:
        known = ", ".join(sorted(_SERVICES))
        raise LookupError(f"no emulator for {provider_class!r}: its name is {name!r}, and there are {known}")
    return _SERVICES[name]


def _trio_token() -> trio.lowlevel.TrioToken | None:
    """The token of the trio that we are in, if any."""
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None


def _url(address: tuple[Any, ...]) -> str:
    host, port = address[0], address[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
