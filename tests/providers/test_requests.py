"""What is said on the wire, to the byte: whole sessions through the public API, with a mocked network.

``requests.json`` is the promise, one entry for each request of a session with two turns, in order. ``<version>`` is
ours, ``<session>`` a UUID that stays the same within a session, ``<uuid n>`` one of its own.
"""

from __future__ import annotations

import email.parser
import email.policy
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from email.message import EmailMessage
from http.cookiejar import Cookie, CookieJar
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import httpx
import pytest
import respx

import trioprov
from trioprov import AllenAI, ConversationLost, H2o, OpenAssistant, RemoteProtocolError
from trioprov.providers import Provider

REQUESTS: dict[str, Any] = json.loads(Path(__file__).with_name("requests.json").read_text("utf-8"))

# What the HTTP library adds because HTTP wants it; nothing else may be there that is not promised.
FRAMING = {"host", "connection", "accept-encoding"}
BODY = {"content-length", "content-type"}
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"

FIRST = [{"role": "system", "content": "Будь краток."}, {"role": "user", "content": "Почему небо синее?"}]
SECOND = [*FIRST, {"role": "assistant", "content": "Рэлей."}, {"role": "user", "content": "А ночью?"}]


class Pieces(httpx.AsyncByteStream):
    """A body that arrives in pieces of three bytes, so that no line and no letter is whole."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._body), 3):
            yield self._body[at : at + 3]


def body_of(request: httpx.Request) -> dict[str, Any]:
    """The body as an entry of the table says it, after checking how it is framed."""
    content, kind = request.content, request.headers.get("content-type", "")
    assert request.headers.get("content-length", "0") == str(len(content))
    if not content and not kind:
        return {}
    if kind == "application/json":
        return {"json": json.loads(content)}
    if kind == "application/x-www-form-urlencoded":
        return {"form": [list(pair) for pair in parse_qsl(content.decode("ascii"), True, strict_parsing=bool(content))]}
    assert re.fullmatch(r"multipart/form-data; boundary=[0-9a-f]{32}", kind)
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"content-type: " + kind.encode() + b"\r\n\r\n" + content
    )
    fields: list[Any] = []
    for part in cast("list[EmailMessage]", message.get_payload()):
        assert set(part.keys()) == {"Content-Disposition"}
        assert part.get_content_disposition() == "form-data"
        disposition = part["content-disposition"]
        assert set(disposition.params) == {"name"}
        fields.append([disposition.params["name"], cast("bytes", part.get_payload(decode=True)).decode()])
    return {"multipart": fields}


class Matcher:
    """Compares what was said with what is promised, with the same value for the same placeholder."""

    def __init__(self) -> None:
        self.known = {"<version>": trioprov.__version__}

    def __call__(self, promised: Any, said: Any) -> None:
        if isinstance(promised, dict):
            assert isinstance(said, dict)
            assert sorted(cast("dict[str, Any]", said)) == sorted(cast("dict[str, Any]", promised))
            for name, value in cast("dict[str, Any]", promised).items():
                self(value, said[name])
        elif isinstance(promised, str) and (found := re.search(r"<[a-z0-9 ]+>", promised)):
            name = found.group()
            if name not in self.known:
                match = re.search(UUID, said)
                assert match, said
                assert match.group() not in self.known.values()
                self.known[name] = match.group()
            assert said == promised.replace(name, self.known[name])
        else:
            assert said == promised
            assert type(said) is type(promised)


def check(name: str, calls: Sequence[httpx.Request]) -> None:
    promised, same = REQUESTS[name], Matcher()
    assert [f"{call.method} {call.url}" for call in calls] == [entry["request"] for entry in promised["requests"]]
    for call, entry in zip(calls, promised["requests"], strict=True):
        body = {key: value for key, value in entry.items() if key not in ("step", "request")}
        same(body, body_of(call))
        headers = {key: value for key, value in call.headers.items() if key not in FRAMING | BODY}
        same(promised["headers"], headers)
        assert not FRAMING - call.headers.keys()
        assert call.headers["host"] == call.url.host


# -- What the services answer ------------------------------------------------------------------------------------------


def ok(value: Any = None) -> httpx.Response:
    return httpx.Response(200) if value is None else httpx.Response(200, json=value)


def streamed(body: bytes) -> httpx.Response:
    return httpx.Response(200, stream=Pieces(body))


def tgi(*tokens: str) -> bytes:
    events: list[dict[str, Any]] = [
        {"token": {"id": 1, "text": text, "logprob": -1, "special": False}, "generated_text": None} for text in tokens
    ]
    end = {"token": {"id": 0, "text": "</s>", "logprob": 0, "special": True}, "generated_text": "".join(tokens)}
    return b"".join(f"data:{json.dumps(event, ensure_ascii=False)}\n\n".encode() for event in [*events, end])


def oasst(answer: str, *tokens: str) -> bytes:
    events: list[dict[str, Any]] = [{"event_type": "token", "text": text} for text in tokens]
    events.append({"event_type": "message", "message": {"id": answer, "state": "complete", "content": "".join(tokens)}})
    return b"".join(f"data: {json.dumps(event)}\r\n\r\n".encode() for event in events)


def olmo(root: str, top: str, answer: str, *tokens: str) -> bytes:
    def tree(content: str) -> dict[str, Any]:
        leaf = {"id": answer, "role": "assistant", "content": content, "root": root}
        return {"id": top, "role": "user", "root": root, "children": [leaf]}

    said = [tree(""), *({"message": answer, "content": text} for text in tokens), tree("".join(tokens))]
    return b"".join(json.dumps(line).encode() + b"\n" for line in said)


H2O_ID = "64c0ffee64c0ffee64c0ffee"
SET_COOKIE = {"set-cookie": "hf-chat=theirs; Path=/; HttpOnly; Secure; SameSite=None"}


def h2o(router: respx.MockRouter) -> None:
    router.post("https://gpt-gm.h2o.ai/settings").respond(json={"type": "redirect", "status": 303}, headers=SET_COOKIE)
    router.post("https://gpt-gm.h2o.ai/conversation").respond(json={"conversationId": H2O_ID}, headers=SET_COOKIE)
    router.post(f"https://gpt-gm.h2o.ai/conversation/{H2O_ID}").mock(
        side_effect=[streamed(tgi("Рэ", "лей.")), streamed(tgi("Тем", "но."))]
    )
    router.delete(f"https://gpt-gm.h2o.ai/conversation/{H2O_ID}").respond(200)


def open_assistant(router: respx.MockRouter) -> None:
    api = "https://open-assistant.io/api/chat"
    router.post(api).respond(json={"id": "chat-1"})
    router.post(f"{api}/prompter_message").mock(side_effect=[ok({"id": "prompt-1"}), ok({"id": "prompt-2"})])
    router.post(f"{api}/assistant_message").mock(side_effect=[ok({"id": "answer-1"}), ok({"id": "answer-2"})])
    router.post(f"{api}/events").mock(
        side_effect=[streamed(oasst("answer-1", "Рэ", "лей.")), streamed(oasst("answer-2", "Тем", "но."))]
    )
    router.delete(api).respond(200)


def allen_ai(router: respx.MockRouter) -> None:
    router.post("https://olmo-api.allen.ai/v4/message/stream").mock(
        side_effect=[
            streamed(olmo("msg_A", "msg_A", "msg_C", "Рэ", "лей.")),
            streamed(olmo("msg_A", "msg_D", "msg_E", "Тем", "но.")),
        ]
    )
    router.delete("https://olmo-api.allen.ai/v3/message/msg_A").respond(json=None)


OA = OpenAssistant(cookies={"next-auth.session-token": "mine"})
SESSIONS: list[tuple[Provider, Callable[[respx.MockRouter], None]]] = [
    (H2o(), h2o),
    (OA, open_assistant),
    (AllenAI(), allen_ai),
]


@pytest.fixture
def router() -> Iterator[respx.MockRouter]:
    with respx.mock(using="httpx", assert_all_called=True, assert_all_mocked=True) as router:
        yield router


def said(router: respx.MockRouter) -> list[httpx.Request]:
    return [call.request for call in cast("Sequence[respx.models.Call]", router.calls)]


def spoken(router: respx.MockRouter) -> list[str]:
    return [f"{request.method} {request.url.raw_path.decode()}" for request in said(router)]


@pytest.mark.parametrize(("provider", "service"), SESSIONS, ids=lambda it: getattr(it, "name", None))
async def test_a_session_of_two_turns_says_exactly_what_is_promised(
    provider: Provider, service: Callable[[respx.MockRouter], None], router: respx.MockRouter
) -> None:
    service(router)
    async with trioprov.open_session(provider) as session:
        async with session.ask(FIRST, temperature=0) as reply:
            assert [token async for token in reply] == ["Рэ", "лей."]
        async with session.ask(SECOND, max_tokens=7) as reply:
            assert (await reply.wait()).text == "Темно."
    assert session.cleanup is not None
    assert session.cleanup.outcome == "deleted"
    check(provider.name, said(router))


@pytest.mark.parametrize(("provider", "service"), SESSIONS, ids=lambda it: getattr(it, "name", None))
async def test_two_sessions_of_a_client_share_no_identity_and_no_cookie(
    provider: Provider, service: Callable[[respx.MockRouter], None]
) -> None:
    speakers: list[set[str]] = []
    async with trioprov.open_client() as client:
        for _ in range(2):
            with respx.mock(using="httpx", assert_all_called=False) as router:
                service(router)
                async with trioprov.open_session(provider, client=client) as session, session.ask("?") as reply:
                    await reply.wait()
                who = ("x-anonymous-user-id", "cookie")
                speakers.append({request.headers.get(who[0]) or request.headers[who[1]] for request in said(router)})
    assert [len(each) for each in speakers] == [1, 1]
    assert (speakers[0] == speakers[1]) == (provider is OA)  # whose identity is the user's


async def test_the_earlier_client_s_choices_can_be_made(router: respx.MockRouter) -> None:
    h2o(router)
    provider = H2o("falcon-7b", prompt_style="instruction", share_with_model_authors=True, headers={"X-More": "1"})
    async with trioprov.open_session(provider) as session:
        for _ in range(2):
            async with session.ask("Hi", id="a", response_id="b", truncate=None) as reply:
                await reply.wait()
    settings, create, generate, *_ = said(router)
    assert body_of(settings)["form"][2] == ["shareConversationsWithModelAuthors", "true"]
    assert body_of(create)["json"] == {"model": "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3"}
    body = body_of(generate)["json"]
    assert body["inputs"].startswith("instruction: this is a conversation beween, a user")
    assert (body["options"]["id"], body["options"]["response_id"]) == ("a", "b")
    assert "truncate" not in body["parameters"]
    assert {request.headers["x-more"] for request in said(router)} == {"1"}


async def test_a_generation_that_may_go_on_is_stopped_before_its_conversation_is_deleted(
    router: respx.MockRouter,
) -> None:
    h2o(router)
    endless = b"".join(tgi("a").split(b"\n\n")[0] + b"\n\n" for _ in range(5))
    router.post(f"https://gpt-gm.h2o.ai/conversation/{H2O_ID}").mock(side_effect=[streamed(endless)])
    stop = router.post(f"https://gpt-gm.h2o.ai/conversation/{H2O_ID}/stop-generating").respond(200)
    async with trioprov.open_session(H2o()) as session, session.ask("?") as reply:
        with pytest.raises(trioprov.IncompleteReply):
            await reply.wait()
    assert spoken(router)[-2:] == [
        f"POST /conversation/{H2O_ID}/stop-generating",
        f"DELETE /conversation/{H2O_ID}",
    ]
    assert stop.calls.last.request.content == b""
    assert stop.calls.last.request.headers["content-length"] == "0"


async def test_a_create_whose_answer_is_nonsense_is_recovered_by_deleting_the_minted_session(
    router: respx.MockRouter,
) -> None:
    router.post("https://gpt-gm.h2o.ai/settings").respond(303)
    router.post("https://gpt-gm.h2o.ai/conversation").respond(200, text="<html>")
    recover = router.post(url="https://gpt-gm.h2o.ai/conversations?/delete").respond(303)
    with pytest.raises(RemoteProtocolError):
        async with trioprov.open_session(H2o()):
            pass
    request = recover.calls.last.request
    assert request.url.raw_path == b"/conversations?/delete"
    assert request.content == b""
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert len({each.headers["cookie"] for each in said(router)}) == 1


async def test_a_chat_that_is_gone_already_is_confirmed_by_asking_for_it(router: respx.MockRouter) -> None:
    api = "https://open-assistant.io/api/chat"
    router.post(api).respond(json={"id": "chat-1"})
    router.delete(api).respond(500, text="Internal Server Error")
    router.get(api).respond(404)
    async with trioprov.open_session(OA) as session:
        pass
    assert session.cleanup is not None
    assert session.cleanup.outcome == "already_gone"
    assert spoken(router) == ["POST /api/chat", "DELETE /api/chat?chat_id=chat-1", "GET /api/chat?chat_id=chat-1"]


async def test_cookies_of_a_jar_are_sent_and_those_of_others_are_not(router: respx.MockRouter) -> None:
    jar = CookieJar()
    for domain, value in (("open-assistant.io", "mine"), (".example.org", "other")):
        dotted = domain.startswith(".")
        rest: dict[str, str] = {}
        jar.set_cookie(
            Cookie(0, "s", value, None, False, domain, dotted, dotted, "/", True, True, None, True, None, None, rest)
        )
    api = "https://open-assistant.io/api/chat"
    router.post(api).respond(json={"id": "chat-1"})
    router.delete(api).respond(200)
    async with trioprov.open_session(OpenAssistant(cookies=jar)):
        pass
    assert {request.headers["cookie"] for request in said(router)} == {"s=mine"}


async def test_an_answer_without_events_is_read_from_its_message(router: respx.MockRouter) -> None:
    open_assistant(router)
    message = {"id": "answer-1", "state": "complete", "content": "Рэлей."}
    router.post("https://open-assistant.io/api/chat/events").mock(side_effect=[streamed(b""), streamed(b"")])
    router.get("https://open-assistant.io/api/chat/message").respond(json=message)
    async with trioprov.open_session(OA) as session:
        for _ in range(2):
            async with session.ask("?") as reply:
                assert (await reply.wait()).text == "Рэлей."
    assert "GET /api/chat/message?chat_id=chat-1&message_id=answer-1" in spoken(router)


async def test_every_thread_that_olmo_began_is_deleted(router: respx.MockRouter) -> None:
    host = "https://olmo-api.allen.ai"
    router.post(f"{host}/v4/message/stream").mock(
        side_effect=[
            streamed(olmo("msg_A", "msg_A", "msg_C", "a")),
            streamed(olmo("msg_X", "msg_X", "msg_Y", "b")),
        ]
    )
    for root in ("msg_A", "msg_X"):
        router.delete(f"{host}/v3/message/{root}").respond(json=None)
    async with trioprov.open_session(AllenAI()) as session:
        async with session.ask("?") as reply:
            await reply.wait()
        async with session.ask("?") as reply:
            with pytest.raises(RemoteProtocolError, match="another thread"):
                await reply.wait()
    assert spoken(router)[2:] == ["DELETE /v3/message/msg_A", "DELETE /v3/message/msg_X"]
    assert session.cleanup is not None
    assert session.cleanup.outcome == "deleted"


async def test_a_thread_that_cannot_be_continued_is_lost_and_still_deleted(router: respx.MockRouter) -> None:
    host = "https://olmo-api.allen.ai"
    start = b'{"type": "start", "message": "msg_A"}\n'
    router.post(f"{host}/v4/message/stream").mock(side_effect=[streamed(start)])
    router.delete(f"{host}/v3/message/msg_A").respond(json=None)
    async with trioprov.open_session(AllenAI()) as session:
        async with session.ask("?") as reply:
            with pytest.raises(trioprov.IncompleteReply):
                await reply.wait()
        async with session.ask("?") as reply:
            with pytest.raises(ConversationLost):
                await reply.wait()
    assert spoken(router) == ["POST /v4/message/stream", "DELETE /v3/message/msg_A"]


async def test_a_credential_that_is_echoed_is_in_no_message(router: respx.MockRouter) -> None:
    def echo(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500, text=f"bad {dict(request.headers)} {'x' * 400}")

    router.post("https://gpt-gm.h2o.ai/settings").mock(side_effect=echo)
    provider = H2o(cookies={"cf": "the-cookie"}, headers={"Authorization": "Bearer the-token", "X-Api-Key": "the-key"})
    with pytest.raises(trioprov.ProviderError) as caught:
        async with trioprov.open_session(provider):
            pass
    for text in (str(caught.value), repr(caught.value), repr(caught.value.__cause__)):
        assert not re.search(rf"the-cookie|the-token|the-key|hf-chat={UUID[:20]}", text)
    assert "***" in str(caught.value)
