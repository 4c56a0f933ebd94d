"""chat-ui v0.4 before text-generation-inference 0.9.4, as the emulator shows them; each test names one behaviour."""

import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import httpx
import pytest
import trio

from trioprov.testing import Emulator, assert_no_orphans, open_emulator

MODEL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"
FORM = {"ethicsModalAccepted": "true", "activeModel": MODEL}
GENERATION = {"max_new_tokens": 100}


Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


class H2o:
    name: ClassVar[str] = "h2o"

    def __init__(self, *, base_url: str) -> None:
        self.base_url = base_url


class Client(httpx.AsyncClient):
    """A browser-like client with a session cookie of its own choice."""

    emulator: Emulator[H2o]

    async def accept(self) -> httpx.Response:
        return await self.post("/settings", data=FORM, headers={"Referer": f"{self.base_url}/"})

    async def create(self) -> str:
        await self.accept()
        response = await self.post("/conversation", json={"model": MODEL})
        return response.raise_for_status().json()["conversationId"]

    async def generate(self, name: str, parameters: Any = GENERATION, **changes: Any) -> httpx.Response:
        body: dict[str, Any] = {"inputs": "Hi", "parameters": parameters, "stream": True, "options": {}, **changes}
        return await self.post(f"/conversation/{name}", json=body)


@asynccontextmanager
async def client(**script: Any) -> AsyncGenerator[Client]:
    async with open_emulator(H2o, **script) as emulator, Client(base_url=emulator.url, timeout=10) as browser:
        browser.cookies.set("hf-chat", "me")
        browser.emulator = emulator
        yield browser


def events(body: bytes) -> list[Any]:
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data:")) for block in blocks if block != ":"]


async def test_every_answer_of_a_route_sets_the_session_cookie_for_secure_connections_only() -> None:
    async with client() as browser:
        cookie = (await browser.get("/")).headers["set-cookie"]
        assert cookie.startswith("hf-chat=me; Path=/; Expires=")
        assert cookie.endswith("; HttpOnly; Secure; SameSite=None")


async def test_a_session_minted_by_the_server_is_lost_over_http() -> None:
    """The trap: a Secure cookie is stored, and never sent back without TLS."""
    async with client() as browser:
        browser.cookies.clear()
        await browser.accept()
        assert (await browser.post("/conversation", json={"model": MODEL})).status_code == 405


async def test_without_consent_nothing_but_settings_may_be_posted() -> None:
    async with client() as browser:
        for method, path in [("POST", "/conversation"), ("DELETE", f"/conversation/{'0' * 24}")]:
            response = await browser.request(method, path, headers={"Accept": "application/json"})
            assert (response.status_code, response.json()) == (
                405,
                {"error": "You need to accept the welcome modal first"},
            )
            assert "set-cookie" not in response.headers
        assert (await browser.delete("/conversation/x")).headers["content-type"] == "text/plain"
        assert (
            await browser.post(
                "/settings", data={**FORM, "ethicsModalAccepted": ""}, headers={"Referer": f"{browser.base_url}/"}
            )
        ).status_code == 200
        assert (await browser.post("/conversation", json={"model": MODEL})).status_code == 405


async def test_a_server_without_disclaimer_has_no_such_gate() -> None:
    async with client(disclaimer=False) as browser:
        assert (await browser.post("/conversation", json={"model": MODEL})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "Non-JSON form requests need to have a referer"),
        ({"Referer": "http://elsewhere.example/"}, "Invalid referer for POST request"),
    ],
)
async def test_a_form_from_nowhere_or_elsewhere_is_refused(headers: dict[str, str], message: str) -> None:
    async with client() as browser:
        response = await browser.post("/settings", data=FORM, headers=headers)
        assert (response.status_code, response.text) == (403, message)
        response = await browser.post("/settings", data=FORM, headers={**headers, "Accept": "application/json"})
        assert response.json() == {"error": message}


async def test_a_server_that_believes_in_https_refuses_the_http_referer() -> None:
    async with client(https_origin=True) as browser:
        assert (await browser.accept()).status_code == 403


async def test_settings_answer_200_or_303_by_what_is_accepted() -> None:
    async with client() as browser:
        referer = f"{browser.base_url}/"
        response = await browser.accept()
        assert response.json() == {"type": "redirect", "status": 303, "location": referer}
        response = await browser.post(
            "/settings", data=FORM, headers={"Referer": referer, "Accept": "text/event-stream"}
        )
        assert (response.status_code, response.headers["location"]) == (303, referer)
        response = await browser.post("/settings", data={"activeModel": "none"}, headers={"Referer": referer})
        assert (response.status_code, response.json()["type"]) == (500, "error")


async def test_a_conversation_is_seen_by_its_own_session_only() -> None:
    async with client() as browser:
        name = await browser.create()
        assert browser.emulator.conversations == (name,)
        browser.cookies.set("hf-chat", "other")
        await browser.accept()
        response = await browser.delete(f"/conversation/{name}")
        assert (response.status_code, response.json()) == (404, {"message": "Conversation not found"})
        with pytest.raises(AssertionError, match=f"h2o: {name}"):
            assert_no_orphans(browser.emulator)


async def test_delete_is_200_and_then_404_and_500_for_what_is_no_id() -> None:
    async with client() as browser:
        name = await browser.create()
        response = await browser.delete(f"/conversation/{name}")
        assert (response.status_code, response.content) == (200, b"")
        assert (await browser.delete(f"/conversation/{name}")).status_code == 404
        response = await browser.delete("/conversation/x")
        assert (response.status_code, response.json()) == (500, {"message": "Internal Error"})
        assert_no_orphans(browser.emulator)


async def test_a_route_error_is_a_page_unless_json_is_accepted() -> None:
    async with client() as browser:
        await browser.accept()
        response = await browser.delete(f"/conversation/{'0' * 24}", headers={"Accept": "text/event-stream"})
        assert (response.status_code, response.headers["content-type"]) == (404, "text/html; charset=utf-8")


async def test_a_session_may_be_listed_and_deleted_as_a_whole() -> None:
    async with client() as browser:
        names = {await browser.create(), await browser.create()}
        flat = (await browser.get("/__data.json")).json()["nodes"][0]["data"]
        assert {item for item in flat if isinstance(item, str)} >= names
        form = {"Content-Type": "application/x-www-form-urlencoded", "Referer": f"{browser.base_url}/"}
        response = await browser.post("/conversations?/delete", headers=form)
        assert response.json() == {"type": "redirect", "status": 303, "location": "/"}
        assert browser.emulator.conversations == ()
        assert browser.emulator.requests[-1].step == "delete_all"


async def test_the_data_of_a_conversation_that_is_gone_is_a_200_that_says_404() -> None:
    async with client() as browser:
        name = await browser.create()
        assert "Untitled 1" in (await browser.get(f"/conversation/{name}/__data.json")).text
        await browser.delete(f"/conversation/{name}")
        response = await browser.get(f"/conversation/{name}/__data.json")
        assert (response.status_code, response.json()["nodes"][-1]["status"]) == (200, 404)
        assert (await browser.get(f"/conversation/{name}")).status_code == 405
        assert (await browser.get("/conversation")).headers["location"] == "/"
        assert (await browser.get("/nowhere")).status_code == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model":"other"}'])
async def test_a_create_that_zod_refuses_is_a_500(body: bytes) -> None:
    async with client() as browser:
        await browser.accept()
        assert (await browser.post("/conversation", content=body)).status_code == 500


async def test_a_body_over_512_kib_is_a_413_in_plain_text() -> None:
    async with client() as browser:
        response = await browser.post("/conversation", content=bytes(512 * 1024 + 1))
        assert (response.status_code, response.text) == (413, "Invalid request body")


async def test_the_stream_is_exact_to_the_byte() -> None:
    async with client(tokens=["a\u2028", ' "ж"']) as browser:
        response = await browser.generate(await browser.create(), {"max_new_tokens": 9, "details": True})
        assert response.headers["content-type"] == "text/event-stream"
        assert (
            response.content
            == (
                'data:{"token":{"id":1,"text":"a\u2028","logprob":-0.03125,"special":false},'
                '"generated_text":null,"details":null}\n\n'
                'data:{"token":{"id":2,"text":" \\"ж\\"","logprob":-0.046875,"special":false},'
                '"generated_text":null,"details":null}\n\n'
                'data:{"token":{"id":11,"text":"<|endoftext|>","logprob":-0.1875,"special":true},'
                '"generated_text":"a\u2028 \\"ж\\"",'
                '"details":{"finish_reason":"eos_token","generated_tokens":3,"seed":null}}\n\n'
            ).encode()
        )


async def test_newer_servers_put_a_blank_after_data() -> None:
    async with client(space_after_data=True) as browser:
        assert (await browser.generate(await browser.create())).content.startswith(b'data: {"token"')


@pytest.mark.parametrize("finish", ["length", "stop_sequence"])
async def test_without_an_end_token_the_last_event_carries_text(finish: str) -> None:
    async with client(finish=finish, tokens=["a", "b"]) as browser:
        last = events((await browser.generate(await browser.create(), {"max_new_tokens": 9, "details": True})).content)[
            -1
        ]
        assert (last["token"]["text"], last["token"]["special"], last["generated_text"]) == ("b", False, "ab")
        assert last["details"]["finish_reason"] == finish


async def test_the_request_limits_the_answer() -> None:
    async with client(tokens=["a", "b", "STOP", "c"]) as browser:
        name = await browser.create()
        found = events((await browser.generate(name, {"max_new_tokens": 2, "details": True})).content)
        assert (found[-1]["generated_text"], found[-1]["details"]["finish_reason"]) == ("ab", "length")
        found = events((await browser.generate(name, {"max_new_tokens": 9, "stop": ["OP"], "details": True})).content)
        assert (found[-1]["generated_text"], found[-1]["details"]["finish_reason"]) == ("abSTOP", "stop_sequence")


async def test_twenty_tokens_are_the_default() -> None:
    async with client() as browser:
        assert len(events((await browser.generate(await browser.create(), None)).content)) == 20


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1.5}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"truncate": 2049}, "`truncate` must be strictly positive and less than 2048. Given: 2049"),
        (
            {"max_new_tokens": 4096},
            "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 1 `inputs` tokens and 4096 `max_new_tokens`",
        ),
    ],
)
async def test_what_tgi_refuses_comes_in_the_stream(parameters: dict[str, Any], message: str) -> None:
    """text-generation-inference 0.9.4, ``validation.rs``: the status is 200 all the same."""
    async with client() as browser:
        response = await browser.generate(await browser.create(), parameters)
        assert response.status_code == 200
        assert events(response.content) == [{"error": f"Input validation error: {message}", "error_type": "validation"}]


@pytest.mark.parametrize(
    "parameters", [{"do_sample": None}, {"temperature": "hot"}, {"truncate": -1}, {"details": 1}, [1]]
)
async def test_a_wrong_type_is_a_422_in_plain_text(parameters: Any) -> None:
    async with client() as browser:
        response = await browser.generate(await browser.create(), parameters)
        assert response.status_code == 422
        assert response.text.startswith("Failed to deserialize the JSON body into the target type: parameters")


@pytest.mark.parametrize(
    "changes",
    [{"inputs": " "}, {"options": None}, {"options": {"id": "x"}}, {"inputs": 1}, {"options": {"web_search_id": "x"}}],
)
async def test_a_question_that_zod_refuses_is_a_500(changes: dict[str, Any]) -> None:
    async with client() as browser:
        assert (await browser.generate(await browser.create(), **changes)).status_code == 500


async def test_an_error_event_is_the_last_one() -> None:
    async with client(tokens=["a", "b"], error_event=("Model is overloaded", "overloaded"), error_after=1) as browser:
        found = events((await browser.generate(await browser.create())).content)
        assert [*found[0], *found[1]] == ["token", "generated_text", "details", "error", "error_type"]
        assert found[1] == {"error": "Model is overloaded", "error_type": "overloaded"}


async def test_silence_is_filled_with_bare_comments() -> None:
    async with client(tokens=["a"], first_delay=0.35, heartbeat=0.1) as browser:
        assert (await browser.generate(await browser.create())).content.startswith(b":\n\n:\n\n:\n\ndata:")


async def test_without_stream_the_answer_comes_in_one_piece() -> None:
    async with client(tokens=["a", "b"]) as browser:
        name = await browser.create()
        assert (await browser.generate(name, stream=False)).json() == [{"generated_text": "ab"}]
        assert (await browser.generate(name, {"top_p": 1.0}, stream=False)).status_code == 422


async def test_a_generation_goes_on_when_the_client_leaves_and_is_saved(eventually: Eventually) -> None:
    async with client(tokens=["a", "b", "c"], token_delay=0.1) as browser:
        name = await browser.create()
        body: dict[str, Any] = {"inputs": "Hi", "parameters": GENERATION, "stream": True, "options": {}}
        async with browser.stream("POST", f"/conversation/{name}", json=body) as response:
            assert response.status_code == 200
            await eventually(lambda: browser.emulator.generating == (name,))
        await eventually(lambda: not browser.emulator.generating)
        assert "abc" in (await browser.get(f"/conversation/{name}/__data.json")).text


async def test_deleting_does_not_stop_a_generation_and_nothing_comes_back() -> None:
    async with client(tokens=["a"] * 4, token_delay=0.1) as browser:
        name = await browser.create()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(browser.generate, name)
            await trio.sleep(0.15)
            await browser.delete(f"/conversation/{name}")
            assert (browser.emulator.conversations, browser.emulator.generating) == ((), (name,))
        assert (browser.emulator.conversations, browser.emulator.generating) == ((), ())


@pytest.mark.parametrize("poll", [0.0, 0.05])
async def test_stop_takes_effect_at_the_next_token_and_tears_the_stream(poll: float) -> None:
    async with client(forever=True, tokens=["x"], token_delay=0.05, stop_poll=poll) as browser:
        name = await browser.create()
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(httpx.RemoteProtocolError):
                    await browser.generate(name)

            nursery.start_soon(ask)
            await trio.sleep(0.1)
            response = await browser.post(f"/conversation/{name}/stop-generating")
            assert (response.status_code, response.content) == (200, b"")
        assert browser.emulator.generating == ()
        await browser.delete(f"/conversation/{name}")
        assert (await browser.post(f"/conversation/{name}/stop-generating")).status_code == 404


async def test_a_second_stop_within_its_life_is_ignored_by_a_later_generation() -> None:
    """``abortedGenerations``: the row is upserted, and its ``createdAt`` stays."""
    async with client(tokens=["x"] * 8, token_delay=0.02) as browser:
        name = await browser.create()
        await browser.post(f"/conversation/{name}/stop-generating")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(browser.generate, name)
            await trio.sleep(0.05)
            await browser.post(f"/conversation/{name}/stop-generating")


async def test_the_rate_limit_counts_finished_generations() -> None:
    async with client(messages_per_minute=1) as browser:
        name = await browser.create()
        assert (await browser.generate(name)).status_code == 200
        response = await browser.generate(name)
        assert (response.status_code, response.json()["message"]) == (
            429,
            "You are sending too many messages. Try again later.",
        )


async def test_a_retry_cuts_the_history_at_its_message() -> None:
    async with client(tokens=["ok"], max_input_length=math.inf) as browser:
        name = await browser.create()
        first = "01234567-89ab-cdef-0123-456789abcdef"
        await browser.generate(name, options={"id": first})
        await browser.generate(name, inputs="again", options={"id": first, "is_retry": True})
        data = (await browser.get(f"/conversation/{name}/__data.json")).text
        assert '"again"' in data
        assert '"Hi"' not in data
