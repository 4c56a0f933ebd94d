"""README is true: every code block runs, its tables are what happens, and its figures can be measured again."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import shlex
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

import trioprov
from trioprov.providers import Provider
from trioprov.testing import Emulator, Fault, assert_no_orphans, open_emulator

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def table(name: str) -> list[list[str]]:
    body = README.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
    rows = [line.strip().strip("|").split(" | ") for line in body.strip().splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@pytest.fixture
async def services(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, Emulator[Provider]]]:
    """The three services, emulated, in the place of the public ones for whoever says ``H2o()``."""
    async with AsyncExitStack() as stack:
        emulators: dict[str, Emulator[Provider]] = {}
        for provider in (trioprov.H2o, trioprov.OpenAssistant, trioprov.AllenAI):
            accounts = {"accounts": ("secret", "test")} if provider is trioprov.OpenAssistant else {}
            emulator: Emulator[Any] = await stack.enter_async_context(open_emulator(provider, **accounts))
            emulators[provider.name] = emulator
            monkeypatch.setattr(trioprov, provider.__name__, _Here(provider, emulator.url))
        yield emulators
        assert_no_orphans(*emulators.values())


class _Here:
    """A provider class whose service is somewhere else; still what `open_emulator` knows by its name."""

    def __init__(self, provider: type[Provider], url: str) -> None:
        self.name = provider.name
        self._provider = provider
        self._url = url

    def __call__(self, *args: Any, **fields: Any) -> Provider:
        return self._provider(*args, **{"base_url": self._url, **fields})


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """The blocks that say what file they are, each as that file, to be imported."""
    found: dict[str, Path] = {}
    for block in blocks("python"):
        if named := re.match(r"# (\w+)\.py\n", block):
            found[named[1]] = tmp_path / f"{named[1]}.py"
            found[named[1]].write_text(block, "utf-8")
            monkeypatch.setitem(sys.modules, named[1], None)  # so that it is as before afterwards
            del sys.modules[named[1]]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    return found


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.strip().splitlines()[-1][:40])
async def test_every_code_block_runs(
    block: str,
    services: dict[str, Emulator[Provider]],
    modules: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code = compile(block, "README.md", "exec", dont_inherit=True)
    names: dict[str, Any] = {"trioprov": trioprov, "__name__": "readme"}
    # Each block begins its own run, so it needs a thread without one.
    await trio.to_thread.run_sync(exec, code, names)
    for name in names:
        if name.startswith("test_"):
            names[name]()
    if "print(" in block:
        assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.splitlines()[0][:60])
async def test_an_example_with_its_output_is_what_comes_out(block: str) -> None:
    command, *promised = block.splitlines()
    words = shlex.split(command.removeprefix("$ trioprov "))
    done = await trio.run_process([sys.executable, "-m", "trioprov", *words], capture_stdout=True, capture_stderr=True)
    assert by_lane(done.stdout.decode().splitlines()) == by_lane(promised)


def by_lane(lines: list[str]) -> dict[int, list[dict[str, Any]]]:
    """The records of each lane, with nothing in them that is never the same; two lanes have no order between them."""
    records: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        record = json.loads(line)
        for name in ("base_url", "conversation", "first_token", "seconds"):
            if record.get(name) is not None:
                record[name] = type(record[name])
        records.setdefault(record["lane"], []).append(record)
    return records


@pytest.fixture
def acme(modules: dict[str, Path]) -> Any:
    return importlib.import_module("acme")


def test_the_example_of_a_provider_is_short(modules: dict[str, Path]) -> None:
    assert len(modules["acme"].read_text("utf-8").splitlines()) <= 60


def test_the_example_of_an_entry_point_names_the_example_of_a_provider(acme: Any) -> None:
    said = tomllib.loads(next(block for block in blocks("toml") if "trioprov.providers" in block))
    ((name, value),) = said["project"]["entry-points"]["trioprov.providers"].items()
    assert importlib.metadata.EntryPoint(name, value, "trioprov.providers").load() is acme.Acme
    assert name == acme.Acme.name


async def test_the_example_of_a_provider_speaks_with_a_server(acme: Any, nursery: trio.Nursery) -> None:
    chats: list[str] = []
    heard: list[tuple[str, dict[str, Any]]] = []

    async def serve(stream: trio.SocketStream) -> None:
        received = b""
        async for data in stream:
            received += data
            head, blank, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            if not blank or len(body) < int(length[1] if length else 0):
                continue
            method, path, _ = head.split(b"\r\n")[0].decode().split()
            heard.append((f"{method} {path}", json.loads(body or b"{}")))
            answer = b""
            if method == "DELETE":
                chats.remove(path.removeprefix("/chats/"))
            elif path == "/chats":
                chats.append("c-1")
                answer = b'{"id": "c-1"}'
            elif heard[-1][1]["prompt"] == "Again?":
                answer = b'{"token": "Be"}\n{"error": "out of breath"}\n'
            else:
                answer = b'{"token": "Be"}\n{"token": "cause."}\n{"done": true}\n'
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
            received = b""

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    async with trioprov.open_session(acme.Acme(base_url=url)) as session:
        async with session.ask("Why?", temperature=0.5) as reply:
            assert [token async for token in reply] == ["Be", "cause."]
        async with session.ask("Again?") as reply:
            with pytest.raises(trioprov.ProviderError, match="out of breath") as caught:
                await reply.wait()
        assert caught.value.partial == "Be"
    assert session.cleanup is not None
    assert (session.cleanup.outcome, chats) == ("deleted", [])
    assert heard == [
        ("POST /chats", {"model": "acme-large"}),
        ("POST /chats/c-1/messages", {"prompt": "Why?", "temperature": 0.5}),
        ("POST /chats/c-1/messages", {"prompt": "Again?"}),
        ("DELETE /chats/c-1", {}),
    ]


EARLIER = [
    pytest.param(before.strip("`"), now.strip("`"), id=before.strip("`")[:60])
    for before, now in table("earlier clients")
]


class Proxy:
    """A forward proxy that sends everybody on to one emulator, whatever host they asked for."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.served = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        request = await stream.receive_some(65536)
        line, _, rest = request.partition(b"\r\n")
        method, url, version = line.split(b" ", 2)
        assert url.startswith(b"http://")
        self.served += 1
        path = b"/" + url.split(b"/", 3)[3]
        onward = await trio.open_tcp_stream(self.target.hostname or "", self.target.port or 80)
        async with stream, onward, trio.open_nursery() as nursery:
            await onward.send_all(b" ".join([method, path, version]) + b"\r\nConnection: close\r\n" + rest)
            nursery.start_soon(self._copy, stream, onward)
            await self._copy(onward, stream)
            nursery.cancel_scope.cancel()

    async def _copy(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@pytest.mark.parametrize(("before", "now"), EARLIER)
async def test_what_an_earlier_client_did_is_done_by_its_row(
    before: str, now: str, services: dict[str, Emulator[Provider]]
) -> None:
    name = before.split(".")[0].lower() if "." in before.split("(")[0] else "h2o"
    emulator = services[name]
    proxy = Proxy(emulator.url)
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, proxy.serve, 0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]
        # The proxies of the examples do not exist; one on loopback stands in for each.
        now, through_proxy = re.subn(r'proxy="[^"]*"', f'proxy="http://127.0.0.1:{port}"', now)
        helper = next(block for block in blocks("python") if block.startswith("async def answer("))
        names: dict[str, Any] = {
            "trioprov": trioprov,
            "H2o": trioprov.H2o,
            "OpenAssistant": trioprov.OpenAssistant,
            "AllenAI": trioprov.AllenAI,
            "cookies": {"next-auth.session-token": "test"},
            "messages": [
                {"role": "user", "content": "Hello!"},
                {"role": "assistant", "content": "Hi there!"},
                {"role": "user", "content": "Загрузка описаний продуктов в PrestaShop."},
            ],
        }
        if '"session": "test"' in now:  # the example's cookie is nobody's here
            now = now.replace('"session"', '"next-auth.session-token"')
        exec(helper, names)
        text, kept = await eval(f"answer({now})", names)
        nursery.cancel_scope.cancel()

    assert text
    assert (proxy.served > 0) == bool(through_proxy)
    content = re.search(r'"content": "([^"]*)"', before)
    sent = b"".join(request.body for request in emulator.requests).decode("utf-8", "replace")
    assert (content[1] if content else "Загрузка описаний продуктов в PrestaShop.") in sent
    if kept is not None:
        report = await trioprov.delete_conversation(emulator.provider, kept)
        assert report.outcome == "deleted"


async def everything_h2o_says(provider: Provider, emulator: Emulator[Provider]) -> None:
    async with trioprov.open_session(provider) as session, session.ask("Why?") as reply:
        async for _ in reply:
            break
    emulator.add_fault(Fault(on="create", lose_response=True))
    with pytest.raises(trioprov.ConnectionFailed):
        await trioprov.ask("Why?", provider)


async def everything_open_assistant_says(provider: Provider, emulator: Emulator[Provider]) -> None:
    emulator.add_fault(Fault(on="delete", status=500))
    await trioprov.ask("Why?", provider)


async def everything_allenai_says(provider: Provider, emulator: Emulator[Provider]) -> None:
    async with trioprov.open_session(provider) as session:
        for _ in range(2):
            async with session.ask("Why?", temperature=0.5) as reply:
                await reply.wait()


SCENARIOS: dict[str, tuple[type[Provider], Any, dict[str, Any]]] = {
    "H2o": (trioprov.H2o, everything_h2o_says, {"token_delay": 0.01}),
    "OpenAssistant": (trioprov.OpenAssistant, everything_open_assistant_says, {"empty_stream": True}),
    "AllenAI": (trioprov.AllenAI, everything_allenai_says, {}),
}


def wildcard(path: str) -> str:
    """A path with its ids, and only those, as ``{id}``."""
    return re.sub(r"msg_\w+|[0-9a-f]{24}|[0-9a-f]{8}-[0-9a-f-]{27}|\{\w+\}", "{id}", path)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_table_of_requests_is_what_is_sent(name: str) -> None:
    provider, scenario, script = SCENARIOS[name]
    promised: dict[str, tuple[str, str]] = {}
    for who, _, request, headers, body in table("requests"):
        if who == name:
            known = next(iter(promised.values()))[0] if headers == "the same" else headers
            promised[wildcard(request.strip("`"))] = (known, body)
    async with open_emulator(provider, **script) as emulator:
        await scenario(emulator.provider, emulator)
        sent: dict[str, Any] = {}
        for request in emulator.requests:
            query = "&".join(f"{key}={value}" for key, value in request.query.items())
            path = request.path + ("?/delete" if request.step == "delete_all" else f"?{query}" if query else "")
            sent[wildcard(f"{request.method} {path}")] = request
    assert sent.keys() == promised.keys()

    for key, request in sent.items():
        headers, body = promised[key]
        for header in re.findall(r"`([A-Z][\w-]+)[:`]", headers):
            assert header.lower() in request.headers, (key, header)
        assert request.headers["user-agent"] == f"trioprov/{trioprov.__version__}"
        assert not {"authority", "sec-fetch-mode", "sec-ch-ua"} & request.headers.keys()
        kind = request.content_type
        if body.startswith("none"):
            assert not request.body
            continue
        fields = request.json if kind == "application/json" else dict(request.form)
        assert body.startswith({"application/json": "JSON", "multipart/form-data": "multipart"}.get(kind, "form"))
        for field in fields:
            assert field in body or field in provider.supported_parameters, (key, field)


def test_the_figures_are_those_of_the_last_run_of_the_benchmarks() -> None:
    results = (Path(__file__).parent.parent / "benchmarks" / "RESULTS.md").read_text("utf-8").splitlines()
    quoted = re.findall(r"<!-- table: .*? -->\n(.*?)\n<!-- /table -->", README, re.DOTALL)
    rows = [row for table in quoted for row in table.splitlines() if row]
    assert len(rows) > 15
    assert not set(rows) - set(results)
