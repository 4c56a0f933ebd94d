"""olmo-api of March 2025, as the emulator shows it; each test names one behaviour."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import httpx
import pytest
import trio

from trioprov.testing import Emulator, assert_no_orphans, open_emulator

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


class AllenAI:
    name: ClassVar[str] = "allenai"

    def __init__(self, *, base_url: str) -> None:
        self.base_url = base_url


class Client(httpx.AsyncClient):
    """A client with an anonymous id of its own choice."""

    emulator: Emulator[AllenAI]

    async def ask(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        form = {"model": "tulu3-405b", "host": "inferd", "content": "Hi ☃", **fields}
        files = [(name, (None, str(value))) for name, value in form.items() if value is not None]
        return await self.post("/v4/message/stream", files=files, headers=headers)


@asynccontextmanager
async def client(**script: Any) -> AsyncGenerator[Client]:
    async with open_emulator(AllenAI, **script) as emulator, Client(base_url=emulator.url, timeout=10) as browser:
        browser.headers["X-Anonymous-User-ID"] = "me"
        browser.emulator = emulator
        yield browser


def lines(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    assert response.content.endswith(b"\n")
    return [json.loads(line) for line in response.content.decode("ascii").split("\n")[:-1]]


async def test_the_stream_is_a_tree_chunks_and_the_tree_again() -> None:
    async with client(tokens=["é", " ", "\n\n", ""]) as browser:
        response = await browser.ask()
        assert response.headers["content-type"] == "application/jsonl"
        first, *chunks, last = lines(response)
        reply = first["children"][0]
        assert (first["role"], first["root"], first["final"], first["content"]) == ("user", first["id"], False, "Hi ☃")
        assert (reply["role"], reply["content"], reply["root"]) == ("assistant", "", first["id"])
        assert [chunk["content"] for chunk in chunks] == ["é", " ", "\n\n", ""]
        assert f'{{"message": "{reply["id"]}", "content": "\\u00e9", "logprobs": []}}\n'.encode() in response.content
        assert (last["id"], last["final"], last["children"][0]["content"]) == (first["id"], True, "é \n\n")
        assert last["children"][0]["finish_reason"] == "stop"
        assert browser.emulator.conversations == (first["root"],)


async def test_a_system_prompt_is_the_root() -> None:
    async with client(system_prompt=True, tokens=["a"]) as browser:
        first, *_, last = lines(await browser.ask())
        question = last["children"][0]
        assert [first["role"], question["role"], question["children"][0]["role"]] == ["system", "user", "assistant"]
        assert question["root"] == question["children"][0]["root"] == first["id"]
        assert (await browser.delete(f"/v3/message/{question['id']}")).status_code == 404
        assert (await browser.delete(f"/v3/message/{question['children'][0]['id']}")).status_code == 404
        assert (await browser.delete(f"/v3/message/{first['id']}")).status_code == 200


async def test_a_follow_up_begins_with_its_own_message_whose_root_is_the_thread() -> None:
    async with client(tokens=["a"]) as browser:
        root = lines(await browser.ask())[-1]
        first = lines(await browser.ask(parent=root["children"][0]["id"]))[0]
        assert (first["role"], first["root"], first["parent"]) == ("user", root["id"], root["children"][0]["id"])
        assert first["id"] != root["id"]
        assert browser.emulator.conversations == (root["id"],)


async def test_a_follow_up_of_somebody_else_or_of_a_question_is_refused() -> None:
    async with client(tokens=["a"]) as browser:
        root = lines(await browser.ask())[-1]
        answers = [
            await browser.ask(parent=root["children"][0]["id"], headers={"X-Anonymous-User-ID": "you"}),
            await browser.ask(parent=root["id"]),
            await browser.ask(parent="msg_none"),
        ]
        assert [answer.status_code for answer in answers] == [403, 400, 400]
        assert len(browser.emulator.conversations) == 1


async def test_other_hosts_than_inferd_never_say_why_they_ended() -> None:
    async with client(tokens=["a", "b"]) as browser:
        *_, last = lines(await browser.ask(model="olmoe-0125", host="modal", max_tokens=1))
        assert (last["children"][0]["finish_reason"], last["children"][0]["content"]) == (None, "a")


async def test_a_length_comes_as_an_error_line_before_the_final_one() -> None:
    async with client(tokens=["a", "b"]) as browser:
        *_, error, last = lines(await browser.ask(max_tokens=1))
        assert error["reason"] == last["children"][0]["finish_reason"] == "length"
        assert last["final"]


@pytest.mark.parametrize(("reason", "chunks"), [("aborted", 1), ("model overloaded", 0), ("grpc inference failed", 1)])
async def test_an_error_line_is_not_the_end(reason: str, chunks: int) -> None:
    async with client(tokens=["a"], error_reason=reason) as browser:
        found = lines(await browser.ask())
        assert len(found) == chunks + 3
        assert (found[-2]["reason"], found[-1]["final"]) == (reason, True)


async def test_a_finalization_failure_cuts_the_body() -> None:
    async with client(tokens=["a"], error_reason="finalization failure") as browser:
        with pytest.raises(httpx.RemoteProtocolError):
            await browser.ask()
        assert len(browser.emulator.conversations) == 1


async def test_deleting_under_a_running_generation_is_a_finalization_failure(eventually: Eventually) -> None:
    async with client(tokens=["a"] * 3, token_delay=0.1) as browser, trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(httpx.RemoteProtocolError):
                await browser.ask()

        nursery.start_soon(ask)
        await eventually(lambda: bool(browser.emulator.conversations))
        root = browser.emulator.conversations[0]
        assert browser.emulator.generating == (root,)
        assert (await browser.delete(f"/v3/message/{root}")).status_code == 200


async def test_newer_streams_have_a_start_and_an_end() -> None:
    async with client(tokens=["a"], start_line=True) as browser:
        first, tree, *_, last = lines(await browser.ask())
        assert first == {"type": "start", "message": tree["root"]}
        assert last == {"type": "end", "message": tree["root"]}


async def test_a_client_that_leaves_stops_the_generation_and_nothing_is_final(eventually: Eventually) -> None:
    async with client(forever=True, token_delay=0.02) as browser:
        with trio.move_on_after(0.2):
            await browser.ask()
        root = browser.emulator.conversations[0]
        await eventually(lambda: not browser.emulator.generating)
        assert (await browser.get("/v3/messages")).json()["messages"] == []
        assert (await browser.get(f"/v3/message/{root}")).json()["final"] is False
        assert browser.emulator.conversations == (root,)


async def test_final_threads_are_listed_newest_first() -> None:
    async with client(tokens=["a"]) as browser:
        roots = [lines(await browser.ask())[0]["root"] for _ in range(3)]
        listed = (await browser.get("/v3/messages", params={"creator": "me", "limit": "2"})).json()
        assert [message["id"] for message in listed["messages"]] == roots[:0:-1]
        assert listed["meta"]["total"] == 3
        stranger = {"X-Anonymous-User-ID": "you"}
        assert (await browser.get("/v3/messages?creator=me", headers=stranger)).json()["messages"] == []
        assert (await browser.get(f"/v3/message/{roots[0]}", headers=stranger)).status_code == 403
        assert (await browser.get("/v3/message/none")).status_code == 404
        assert (await browser.get("/v3/messages?limit=x")).status_code == 400


async def test_delete_is_200_null_and_then_404() -> None:
    async with client(tokens=["a"]) as browser:
        root = lines(await browser.ask())[0]["root"]
        foreign = await browser.delete(f"/v3/message/{root}", headers={"X-Anonymous-User-ID": "you"})
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, 403)
        answers = [await browser.delete(f"/v3/message/{root}") for _ in range(2)]
        assert [(answer.status_code, answer.json() is None) for answer in answers] == [(200, True), (404, False)]
        assert_no_orphans(browser.emulator)


async def test_without_an_identity_everything_is_a_401() -> None:
    async with client(bearer_tokens=["t"], tokens=["a"]) as browser:
        del browser.headers["X-Anonymous-User-ID"]
        assert (await browser.ask()).status_code == 401
        assert (await browser.delete("/v3/message/x")).status_code == 401
        browser.headers["Authorization"] = "Bearer t"
        root = lines(await browser.ask(private="false"))[-1]
        assert (root["private"], root["expiration_time"]) == (False, None)
        assert (await browser.ask(parent=root["children"][0]["id"], private="true")).status_code == 400


async def test_an_anonymous_thread_is_private_and_expires() -> None:
    async with client(tokens=["a"]) as browser:
        root = lines(await browser.ask(private="false"))[0]
        assert root["private"] is True
        assert root["expiration_time"] > root["created"]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"content": ""}, ["content"]),
        ({"content": None}, ["content"]),
        ({"max_tokens": 0}, ["max_tokens"]),
        ({"max_tokens": 2049}, ["max_tokens"]),
        ({"max_tokens": "many"}, ["max_tokens"]),
        ({"temperature": 1.01}, ["temperature"]),
        ({"temperature": 0.555}, ["temperature"]),
        ({"temperature": "nan"}, ["temperature"]),
        ({"top_p": 0}, ["top_p"]),
        ({"n": 2}, ["n"]),
        ({"logprobs": 11}, ["logprobs"]),
        ({"role": "tool"}, ["role"]),
        ({"private": "maybe"}, ["private"]),
        ({"role": "assistant"}, []),
        ({"parent": "x", "original": "x"}, []),
    ],
)
async def test_a_form_out_of_its_limits_is_a_400_before_anything_is_stored(
    fields: dict[str, Any], where: list[str]
) -> None:
    async with client() as browser:
        response = await browser.ask(**fields)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["validation_errors"][0]["loc"]) == (400, where)
        assert_no_orphans(browser.emulator)


@pytest.mark.parametrize("value", [0, 0.07, 0.29, 0.57, 1])
async def test_every_hundredth_is_a_temperature(value: float) -> None:
    async with client(tokens=[]) as browser:
        assert lines(await browser.ask(temperature=value))[0]["opts"]["temperature"] == value


async def test_a_model_belongs_to_its_host() -> None:
    async with client() as browser:
        response = await browser.ask(host="modal")
        assert response.json()["error"]["message"] == "model tulu3-405b is not available on modal"


async def test_an_inappropriate_prompt_is_refused() -> None:
    async with client(inappropriate=["bomb"]) as browser:
        assert (await browser.ask(content="a bomb")).json()["error"]["message"] == "inappropriate_prompt"
        assert_no_orphans(browser.emulator)


async def test_an_assistant_message_is_only_stored() -> None:
    async with client(tokens=["a"]) as browser:
        root = lines(await browser.ask())[0]
        response = await browser.ask(role="assistant", parent=root["id"], content="mine")
        assert (response.json()["content"], response.json()["role"]) == ("mine", "assistant")


async def test_errors_are_a_page_where_a_page_is_preferred() -> None:
    async with client() as browser:
        response = await browser.delete("/v3/message/x", headers={"Accept": "text/html,*/*;q=0.1"})
        assert response.headers["content-type"].startswith("text/html")
        assert (await browser.get("/v9")).status_code == 404
        assert (await browser.get("/v4/models")).json()[0]["host"] == "inferd"
        response = await browser.post(
            "/v4/message/stream", content=b"x", headers={"Content-Type": "multipart/form-data"}
        )
        assert response.status_code == 400
