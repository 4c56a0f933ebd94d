"""What README says of web applications, with the application that stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from trioprov import H2o
from trioprov.testing import assert_no_orphans, open_emulator

from .conftest import KINDS, events, fetch, get, gone, running, text

SCRIPT = Path(__file__).with_name("readme.py")
QUESTION = "Why is the sky blue?"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_application_in_readme_deletes_what_its_clients_leave(kind: str) -> None:
    async with open_emulator(H2o, token_delay=0.02, text="word " * 100) as emulator:
        with running(kind, script=SCRIPT, H2O=emulator.url) as server:
            async with get(server, "/text", question=QUESTION) as client:
                await client.head()
                await client.chunk()
                assert len(emulator.conversations) == 1
            await gone(emulator)

            async with get(server, "/events", question=QUESTION) as client:
                await client.head()
                await client.tokens(3)
            seen = client.body[: client.body.rindex(b"\n\n") + 2]
            last = seen.rpartition(b"id: ")[2].split(b"\n")[0].decode()
            back = await fetch(server, "/events", question=QUESTION, headers={"Last-Event-ID": last})
            assert text(seen + back.body) == "word " * 100
            assert events(back.body)[-1][1] == "finish"

            async with get(server, "/events", question=QUESTION) as client:
                await client.head()
                await client.tokens(1)
                stopped = await fetch(server, f"/events/{client.last_event_id}", method="DELETE")
                assert stopped.json is True
                assert events(await client.read())[-1][2]["reason"] == "interrupted"
            await gone(emulator)
            assert not server.errors
        assert_no_orphans(emulator)
