"""A program of somebody who has installed a provider package: what it sees goes to stdout as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

import trioprov
from trioprov.testing import check_provider

BROOK = (
    b'event: place\r\ndata: {"ahead": 3}\r\n\r\n: ping\n\nevent: piece\ndata: {"text": "Hi"}\n\n'
    b'event: piece\ndata: {"text": " there\xe2\x80\xa8"}\n\nevent: end\ndata: {"why": "length", "tokens": 2}\n\n'
)
PUFF = b'{"token": "Hi"}\n\n{"token": " there"}\r\n{"done": true, "more": 1}\n'


async def main(url: str) -> dict[str, Any]:
    found: dict[str, Any] = {"names": list(trioprov.PROVIDERS), "before": "elsewhere" in sys.modules}
    brook, puff = trioprov.PROVIDERS["brook"], trioprov.PROVIDERS["puff"]
    check_provider(brook, streams=[BROOK], answer={"room": "r-1"})
    check_provider(puff, streams=[PUFF])

    async with trioprov.open_session(brook("latest", base_url=url)) as session:
        async with session.ask("Why?", max_tokens=5) as reply:
            found["tokens"] = [token async for token in reply]
        async with session.ask("And at night?") as reply:
            found["second"] = (await reply.wait()).text
    assert session.cleanup is not None
    found["brook"] = session.cleanup.outcome

    answers = await trioprov.gather("Why?", [puff(base_url=url), brook(base_url=url)])
    found["gathered"] = [[one.text, one.cleanup and one.cleanup.outcome] for one in answers]
    async with trioprov.open_session(puff(base_url=url)) as session:
        pass
    found["puff"] = session.cleanup and session.cleanup.outcome
    return found


if __name__ == "__main__":
    print(json.dumps(trio.run(main, sys.argv[1])))
