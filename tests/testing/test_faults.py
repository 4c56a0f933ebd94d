"""What goes wrong on order, seen from the other end of a socket."""

from typing import Any, ClassVar

import httpx
import pytest
import trio

from trioprov.testing import Emulator, Fault, open_emulator

HEADERS = {"X-Anonymous-User-ID": "me"}
FORM = {"model": "tulu3-405b", "host": "inferd", "content": "Hi"}
BODY = b"model=tulu3-405b&host=inferd&content=Hi"
REQUEST = (
    b"POST /v4/message/stream HTTP/1.1\r\nHost: x\r\nX-Anonymous-User-ID: me\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


class AllenAI:
    name: ClassVar[str] = "allenai"

    def __init__(self, *, base_url: str) -> None:
        self.base_url = base_url


async def connect(emulator: Emulator[AllenAI]) -> trio.SocketStream:
    host, _, port = emulator.url.removeprefix("http://").partition(":")
    return await trio.open_tcp_stream(host, int(port))


async def exchange(emulator: Emulator[AllenAI], patience: float = 0.3) -> tuple[bytes, str]:
    """Ask on a raw socket: what came, and how it ended."""
    received = b""
    async with await connect(emulator) as stream:
        await stream.send_all(REQUEST)
        try:
            with trio.fail_after(patience):
                while data := await stream.receive_some():
                    received += data
                    if received.endswith(b"0\r\n\r\n"):
                        return received, "complete"
        except trio.BrokenResourceError:
            return received, "reset"
        except trio.TooSlowError:
            return received, "silence"
    return received, "closed"


async def post(emulator: Emulator[AllenAI]) -> httpx.Response:
    async with httpx.AsyncClient(base_url=emulator.url, headers=HEADERS) as client:
        return await client.post("/v4/message/stream", data=FORM)


@pytest.mark.parametrize(
    ("fault", "ending", "tokens", "stored"),
    [
        (Fault(on="stream", drop=True), "closed", 0, 0),
        (Fault(on="stream", hang=True), "silence", 0, 0),
        (Fault(on="stream", lose_response=True), "closed", 0, 1),
        (Fault(on="stream", cut_after=0), "closed", 0, 1),
        (Fault(on="stream", cut_after=3), "closed", 2, 1),
        (Fault(on="stream", reset_after=3), "reset", 2, 1),
        (Fault(on="stream", end_after=3), "complete", 2, 1),
        (Fault(on="stream", stall_after=3), "silence", 2, 1),
        (Fault(on="delete", drop=True), "complete", 4, 1),
    ],
)
async def test_a_stream_ends_as_its_fault_says(fault: Fault, ending: str, tokens: int, stored: int) -> None:
    async with open_emulator(AllenAI, tokens=["x"] * 4, faults=[fault]) as emulator:
        received, end = await exchange(emulator)
        assert (end, received.count(b'"content": "x"'), len(emulator.conversations)) == (ending, tokens, stored)
        assert (b" 200 " in received) == (fault.cut_after is not None or tokens > 0)
        if fault.end_after is not None:
            assert b'"final": true' not in received


async def test_a_status_replaces_the_work() -> None:
    fault = Fault(on="stream", status=503, body="<h1>☃</h1>", headers={"Retry-After": "7"})
    async with open_emulator(AllenAI, faults=[fault]) as emulator:
        response = await post(emulator)
        assert (response.status_code, response.text, response.headers["retry-after"]) == (503, "<h1>☃</h1>", "7")
        assert emulator.conversations == ()
        assert (await post(emulator)).status_code == 200


async def test_a_delay_comes_before_the_work_which_is_done_though_the_client_has_left() -> None:
    async with open_emulator(AllenAI, faults=[Fault(on="*", delay=0.2)]) as emulator:
        await exchange(emulator, patience=0.1)
        assert emulator.conversations == ()
        await trio.sleep(0.3)
        assert len(emulator.conversations) == 1


async def test_a_delayed_answer_comes_after_the_work() -> None:
    async with open_emulator(AllenAI, faults=[Fault(on="stream", delay_response=0.2)]) as emulator:
        received, end = await exchange(emulator, patience=0.1)
        assert (received, end, len(emulator.conversations)) == (b"", "silence", 1)


@pytest.mark.parametrize("at", [0, 1, 3])
async def test_bytes_are_injected_before_the_event_asked_for(at: int) -> None:
    async with open_emulator(
        AllenAI, tokens=["x"], faults=[Fault(on="stream", inject=b"\xff\n", inject_at=at)]
    ) as emulator:
        response = await post(emulator)
        assert response.content.split(b"\n")[at] == b"\xff"


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_cutting_the_bytes_does_not_change_them(size: int) -> None:
    async with open_emulator(AllenAI, text="ж ☃ 🌤", chunk_bytes=size) as emulator:
        response = await post(emulator)
        assert response.text.count('"message"') == 3
        received, _ = await exchange(emulator)
        assert b"\r\n%x\r\n" % size in received


async def test_faults_are_added_while_it_runs_and_steps_are_checked() -> None:
    async with open_emulator(AllenAI) as emulator:
        emulator.add_fault(Fault(on="stream", after=1, status=500))
        assert [(await post(emulator)).status_code for _ in range(3)] == [200, 500, 200]
        with pytest.raises(ValueError, match="no step 'generate'"):
            emulator.add_fault(Fault(on="generate"))


@pytest.mark.parametrize("fields", [{"fault": 1}, {"pending": 3}])
def test_a_script_of_another_service_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        open_emulator(AllenAI, **fields)
