"""Open Assistant's website and inference server, as the emulator shows them; each test names one behaviour."""

import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import httpx
import pytest
import trio

from trioprov.testing import Emulator, assert_no_orphans, open_emulator

MODEL = "OA_SFT_Llama_30B_6"


Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


class OpenAssistant:
    name: ClassVar[str] = "openassistant"

    def __init__(self, *, base_url: str, cookies: Mapping[str, str]) -> None:
        self.base_url = base_url
        self.cookies = dict(cookies)


class Client(httpx.AsyncClient):
    """The website's own calls."""

    emulator: Emulator[OpenAssistant]

    async def chat(self) -> str:
        return (await self.post("/api/chat")).raise_for_status().json()["id"]

    async def prompt(self, chat: str, content: Any = "Hi ☃", parent: str | None = None) -> httpx.Response:
        return await self.post(
            "/api/chat/prompter_message", json={"chat_id": chat, "content": content, "parent_id": parent}
        )

    async def assistant(self, chat: str, parent: str, **changes: Any) -> httpx.Response:
        body: dict[str, Any] = {
            "chat_id": chat,
            "parent_id": parent,
            "model_config_name": MODEL,
            "sampling_parameters": {},
            **changes,
        }
        return await self.post("/api/chat/assistant_message", json=body)

    async def begin(self, chat: str | None = None) -> dict[str, str]:
        chat = chat or await self.chat()
        question = (await self.prompt(chat)).json()
        answer = (await self.assistant(chat, question["id"])).raise_for_status().json()
        return {"chat_id": chat, "message_id": answer["id"]}

    async def events(self, ids: dict[str, str]) -> httpx.Response:
        return await self.get("/api/chat/events", params=ids)

    async def state(self, ids: dict[str, str]) -> str:
        return (await self.get("/api/chat/message", params=ids)).json()["state"]


@asynccontextmanager
async def client(**script: Any) -> AsyncGenerator[Client]:
    script = {"pending_interval": 0.05, "worker_wait": 0.2, **script}
    async with open_emulator(OpenAssistant, **script) as emulator, Client(base_url=emulator.url, timeout=10) as browser:
        browser.cookies.update(emulator.provider.cookies)
        browser.emulator = emulator
        yield browser


def parse(body: bytes) -> list[Any]:
    blocks = body.decode("ascii").split("\r\n\r\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks if not block.startswith(":")]


async def test_without_a_session_everything_is_an_empty_403() -> None:
    async with client() as browser:
        browser.cookies.clear()
        for path in ("/api/chat", "/api/chat/events", "/api/chat/models"):
            response = await browser.get(path)
            assert (response.status_code, response.content) == (403, b"")
        browser.cookies.set("__Secure-next-auth.session-token", "emulated-session-token")
        assert (await browser.get("/api/chat/models")).status_code == 200


async def test_a_chat_is_created_with_all_its_fields() -> None:
    async with client() as browser:
        chat = (await browser.post("/api/chat")).json()
        assert list(chat) == [
            "id",
            "created_at",
            "modified_at",
            "title",
            "hidden",
            "allow_data_use",
            "active_thread_tail_message_id",
        ]
        assert browser.emulator.conversations == (chat["id"],)


async def test_ids_are_ordered_by_time() -> None:
    async with client() as browser:
        names = [await browser.chat() for _ in range(5)]
        assert names == sorted(names)
        listed = (await browser.get("/api/chat")).json()
        assert [chat["id"] for chat in listed["chats"]] == names[::-1]


async def test_the_list_has_pages_of_twenty() -> None:
    async with client() as browser:
        names = [await browser.chat() for _ in range(25)][::-1]
        first = (await browser.get("/api/chat")).json()
        second = (await browser.get("/api/chat", params={"after": first["next"]})).json()
        back = (await browser.get("/api/chat", params={"before": second["prev"]})).json()
        assert [chat["id"] for chat in first["chats"] + second["chats"]] == names
        assert back["chats"] == first["chats"]
        assert (await browser.get("/api/chat", params={"after": "x"})).status_code == 500


async def test_the_stream_is_exact_to_the_byte_and_has_no_content_type() -> None:
    async with client(tokens=["Hé", "\n"]) as browser:
        response = await browser.events(await browser.begin())
        assert "content-type" not in response.headers
        assert response.content.startswith(
            b'data: {"event_type": "token", "text": "H\\u00e9"}\r\n\r\n'
            b'data: {"event_type": "token", "text": "\\n"}\r\n\r\n'
            b'data: {"event_type": "message", "message": {"id": "'
        )
        assert parse(response.content)[-1]["message"]["content"] == "Hé"
        assert parse(response.content)[-1]["message"]["state"] == "complete"


async def test_a_queued_message_pends_and_then_never_again() -> None:
    async with client(pending=(4, 1, 0), pending_interval=0.5, tokens=["a", "b"], token_delay=0.7) as browser:
        found = parse((await browser.events(await browser.begin())).content)
        assert [event["event_type"] for event in found] == [*["pending"] * 3, "token", "token", "message"]
        assert [(event["queue_position"], event["queue_size"]) for event in found[:3]] == [(4, 5), (1, 5), (0, 5)]


async def test_pings_come_at_their_own_pace() -> None:
    async with client(pending=3, heartbeat=0.07) as browser:
        assert (await browser.events(await browser.begin())).content.count(b": ping - 2") >= 2
    async with client(pending=3, heartbeat=0.07, pings=False) as browser:
        assert b"ping" not in (await browser.events(await browser.begin())).content


async def test_a_finished_message_has_an_empty_stream_and_can_be_read() -> None:
    async with client(empty_stream=True, text="Blue.") as browser:
        ids = await browser.begin()
        response = await browser.events(ids)
        assert (response.status_code, response.content) == (200, b"")
        assert (await browser.get("/api/chat/message", params=ids)).json()["content"] == "Blue."


async def test_plugin_events_are_followed_by_an_empty_token() -> None:
    async with client(tokens=["a"], plugin_events=[{"thought": "hm"}]) as browser:
        found = parse((await browser.events(await browser.begin())).content)
        assert found[0]["current_plugin_thought"] == "hm"
        assert found[1] == {"event_type": "token", "text": ""}


async def test_an_error_event_ends_the_stream_and_the_message_is_aborted() -> None:
    async with client(tokens=["a", "b"], error_event="Aborted due to worker error.", error_after=1) as browser:
        ids = await browser.begin()
        found = parse((await browser.events(ids)).content)
        assert [event["event_type"] for event in found] == ["token", "error"]
        assert found[1]["message"]["state"] == "aborted_by_worker"
        assert (await browser.events(ids)).content == b""


async def test_a_message_that_waited_too_long_is_a_timeout() -> None:
    async with client(pending=2, message_timeout=0.05) as browser:
        ids = await browser.begin()
        assert parse((await browser.events(ids)).content)[-1]["error"] == "Timeout"
        assert await browser.state(ids) == "timeout"


async def test_the_worker_runs_on_without_a_subscriber(eventually: Eventually) -> None:
    async with client(worker_wait=0.05, token_delay=0.002) as browser:
        ids = await browser.begin()
        await eventually(lambda: bool(browser.emulator.generating))
        await eventually(lambda: not browser.emulator.generating)
        assert await browser.state(ids) == "complete"


async def test_a_second_subscriber_steals_tokens() -> None:
    async with client(tokens=[str(number) for number in range(20)], token_delay=0.01) as browser:
        ids = await browser.begin()
        found: list[list[str]] = []

        async def subscribe() -> None:
            body = b""
            with trio.move_on_after(1):
                async with browser.stream("GET", "/api/chat/events", params=ids) as response:
                    async for chunk in response.aiter_raw():
                        body += chunk
            found.append([event["text"] for event in parse(body) if event["event_type"] == "token"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscribe)
            nursery.start_soon(subscribe)
        assert len(found[0]) < 20 > len(found[1])
        assert sorted(found[0] + found[1], key=int) == [str(number) for number in range(20)]


async def test_a_new_message_cancels_the_users_other_pending_ones_which_pend_for_ever() -> None:
    async with client(pending=3) as browser:
        first = await browser.begin()
        second = await browser.begin()
        assert await browser.state(first) == "cancelled"
        assert parse((await browser.events(second)).content)[-1]["event_type"] == "message"
        body = b""
        with trio.move_on_after(0.3):
            async with browser.stream("GET", "/api/chat/events", params=first) as response:
                async for chunk in response.aiter_raw():
                    body += chunk
        assert {event["queue_position"] for event in parse(body)} == {0}
        assert len(parse(body)) >= 3


async def test_a_full_queue_is_a_503_and_leaves_a_pending_row() -> None:
    async with client(queue_full=1) as browser:
        chat = await browser.chat()
        question = (await browser.prompt(chat)).json()["id"]
        response = await browser.assistant(chat, question)
        assert response.status_code == 503
        assert response.json() == {"message": "The server is currently busy. Please try again later."}
        rows = (await browser.get("/api/chat", params={"chat_id": chat})).json()["messages"]
        assert [row["state"] for row in rows] == ["manual", "pending"]
        assert (await browser.assistant(chat, question)).status_code == 200


async def test_the_rate_limit_looks_like_a_crash() -> None:
    async with client(rate_limited=True) as browser:
        chat = await browser.chat()
        response = await browser.assistant(chat, (await browser.prompt(chat)).json()["id"])
        assert (response.status_code, response.json()) == (500, {"message": "Something went wrong"})


async def test_what_prompts_are_refused() -> None:
    async with client(max_content=5) as browser:
        chat = await browser.chat()
        response = await browser.prompt(chat, None)
        assert (response.status_code, response.json()["message"][0]["loc"]) == (422, ["body", "content"])
        assert (await browser.prompt("none")).json() == {"message": "Something went wrong"}
        assert (await browser.prompt(chat, "too long")).status_code == 413
        first = (await browser.prompt(chat)).json()["id"]
        refusals = [
            await browser.prompt(chat),
            await browser.prompt(chat, parent="x"),
            await browser.prompt(chat, parent=first),
        ]
        assert [(refusal.status_code, refusal.json()["message"]) for refusal in refusals] == [
            (400, "Trying to add first message to non-empty chat"),
            (400, "Parent message not found"),
            (400, "Parent message is not an assistant message"),
        ]


async def test_a_second_turn_needs_a_complete_answer() -> None:
    async with client(pending=2) as browser:
        ids = await browser.begin()
        response = await browser.prompt(ids["chat_id"], parent=ids["message_id"])
        assert (response.status_code, response.json()["message"]) == (400, "Parent message is not complete")
        await browser.events(ids)
        assert (await browser.prompt(ids["chat_id"], parent=ids["message_id"])).status_code == 200


async def test_what_answers_are_refused() -> None:
    async with client(accounts=("one", "two")) as browser:
        chat = await browser.chat()
        question = (await browser.prompt(chat)).json()["id"]
        assert (await browser.assistant(chat, question, model_config_name="x")).json() == {
            "message": "Model x not found"
        }
        response = await browser.assistant(chat, question, sampling_parameters={"max_new_tokens": None, "top_p": "x"})
        assert [problem["loc"][-1] for problem in response.json()["message"]] == ["max_new_tokens", "top_p"]
        assert (await browser.assistant(chat, "none")).status_code == 500
        browser.cookies.set("next-auth.session-token", "two")
        other = httpx.Cookies({"next-auth.session-token": "two"})
        async with Client(base_url=browser.base_url, cookies=other) as stranger:
            response = await stranger.assistant(chat, question)
            assert (response.status_code, response.json()) == (400, {"message": "Message not found"})


async def test_only_assistant_messages_can_be_streamed() -> None:
    async with client() as browser:
        chat = await browser.chat()
        question = (await browser.prompt(chat)).json()["id"]
        for name in (question, "none"):
            response = await browser.events({"chat_id": chat, "message_id": name})
            assert (response.status_code, response.text) == (500, "Internal Server Error")


async def test_the_second_delete_is_a_500_and_then_get_says_404() -> None:
    async with client() as browser:
        chat = await browser.chat()
        query = {"chat_id": chat}
        assert (await browser.get("/api/chat", params=query)).status_code == 200
        answers = [await browser.delete("/api/chat", params=query) for _ in range(2)]
        assert [(answer.status_code, answer.text) for answer in answers] == [(200, ""), (500, "Internal Server Error")]
        response = await browser.get("/api/chat", params=query)
        assert (response.status_code, response.content) == (404, b"")
        assert_no_orphans(browser.emulator)


async def test_a_delete_with_a_body_deletes_nothing() -> None:
    async with client() as browser:
        chat = await browser.chat()
        assert (await browser.request("DELETE", "/api/chat", json={"chat_id": chat})).status_code == 500
        assert browser.emulator.conversations == (chat,)


async def test_a_hidden_chat_is_not_deleted() -> None:
    async with client() as browser:
        chat = await browser.chat()
        await browser.put("/api/chat", json={"chat_id": chat, "hidden": True})
        assert (await browser.get("/api/chat")).json()["chats"] == []
        assert browser.emulator.conversations == (chat,)
        assert (await browser.patch("/api/chat")).status_code == 400


async def test_a_chat_is_titled_with_its_whole_first_prompt() -> None:
    async with client() as browser:
        chat = await browser.chat()
        await browser.prompt(chat, "x" * 5000)
        assert (await browser.get("/api/chat", params={"chat_id": chat})).json()["title"] == "x" * 5000


@pytest.mark.parametrize(("pending", "crashes"), [(9, 1), (0, 1), (math.inf, 0)])
async def test_deleting_what_is_queued_or_running_breaks_the_worker(
    pending: float, crashes: int, eventually: Eventually
) -> None:
    async with client(pending=pending, forever=True, token_delay=0.01) as browser:
        ids = await browser.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(browser.events, ids)
            await trio.sleep(0.1)
            assert browser.emulator.generating == (() if pending else (ids["chat_id"],))
            await browser.delete("/api/chat", params={"chat_id": ids["chat_id"]})
            nursery.cancel_scope.cancel()
        assert browser.emulator.worker_crashes == crashes
        await eventually(lambda: not browser.emulator.generating)


async def test_deleting_what_is_finished_does_not() -> None:
    async with client() as browser:
        ids = await browser.begin()
        await browser.events(ids)
        await browser.delete("/api/chat", params={"chat_id": ids["chat_id"]})
        assert browser.emulator.worker_crashes == 0


async def test_nextjs_refuses_bad_and_big_bodies() -> None:
    async with client() as browser:
        as_json = {"Content-Type": "application/json"}
        response = await browser.post("/api/chat/prompter_message", content=b"{", headers=as_json)
        assert (response.status_code, response.text) == (400, "Invalid JSON")
        response = await browser.post("/api/chat/prompter_message", content=bytes((1 << 20) + 1), headers=as_json)
        assert (response.status_code, response.text) == (413, "Body exceeded 1mb limit")
