"""An application on a real server, in a process of its own: ``server.py KIND FD [GRACE]``.

It listens on the socket that it inherits, and asks the emulator whose address is in each request.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.trio
import trio
import uvicorn
from fastapi import FastAPI, Request
from hypercorn.config import Config
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import Response

import trioprov.anyio
from trioprov import H2o
from trioprov.anyio import Deadlines, Reply
from trioprov.asgi import SSEResponse, TextResponse, open_replies

LINGER = 1.5
STALL = 1.0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    async with trioprov.anyio.open_client() as client, open_replies(linger=LINGER, max_lingering=3) as replies:
        app.state.client = client
        app.state.replies = replies
        yield


app = FastAPI(lifespan=lifespan)
bare = FastAPI()
wrapped = FastAPI()
left: list[str] = []


@app.get("/sse")
async def sse(base_url: str, begin_after: float = 5.0, heartbeat: float = 15.0) -> Response:
    opening = trioprov.anyio.open_reply("Why?", H2o(base_url=base_url), client=app.state.client)
    return SSEResponse(opening, begin_after=begin_after, heartbeat=heartbeat, stall_after=STALL)


@app.get("/text")
def text(base_url: str, first_token: float = 60.0) -> Response:  # in a thread: there is no loop
    opening = trioprov.anyio.open_reply(
        "Why?", H2o(base_url=base_url), client=app.state.client, deadlines=Deadlines(first_token=first_token)
    )
    return TextResponse(opening)


@app.post("/text")
async def posted(request: Request, base_url: str) -> Response:
    # The body is left unread: the server still has it to give when the response listens.
    return TextResponse(trioprov.anyio.open_reply("Why?", H2o(base_url=base_url), client=app.state.client))


@app.get("/resumable")
async def resumable(base_url: str, begin_after: float = 5.0) -> Response:
    opening = trioprov.anyio.open_reply("Why?", H2o(base_url=base_url), client=app.state.client)
    return SSEResponse(opening, replies=app.state.replies, begin_after=begin_after, stall_after=STALL)


@app.delete("/resumable/{event_id}")
async def stop(event_id: str) -> bool:
    return app.state.replies.stop(event_id)


@app.get("/held")
async def held() -> int:
    return len(app.state.replies)


@asynccontextmanager
async def session_of_my_own(base_url: str) -> AsyncGenerator[Reply, None]:
    """What a user writes who wants more than `open_reply`, and something of his own undone at the end."""
    opening = trioprov.anyio.open_session(H2o(base_url=base_url), client=app.state.client)
    async with opening as session, anyio.create_task_group(), session.ask("Why?") as reply:
        yield reply
    left.append(base_url)


@app.get("/own")
async def own(base_url: str) -> Response:
    return SSEResponse(session_of_my_own(base_url))


@app.get("/left")
async def how_many(base_url: str) -> int:
    return left.count(base_url)


@app.get("/wrong")
async def wrong(base_url: str) -> Response:
    opening = trioprov.anyio.open_reply("Why?", H2o(base_url=base_url), client=app.state.client, temperature="hot")
    return SSEResponse(opening)


@bare.get("/sse")
async def without_a_client(base_url: str) -> Response:
    return SSEResponse(trioprov.anyio.open_reply("Why?", H2o(base_url=base_url)))


async def add_header(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers["x-wrapped"] = "yes"
    return response


wrapped.add_middleware(BaseHTTPMiddleware, dispatch=add_header)
wrapped.get("/sse")(sse)
wrapped.get("/text")(text)


async def plain(request: Request) -> Response:
    """An endpoint of Starlette's, which answers HEAD too."""
    return await sse(request.query_params["base_url"])


app.add_route("/plain", plain, methods=["GET"])
app.mount("/bare", bare)
app.mount("/wrapped", wrapped)


async def until_sigterm() -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            break


async def hypercorn_on_trio(app: Any, config: Config) -> None:
    await hypercorn.trio.serve(app, config, shutdown_trigger=until_sigterm)  # pyright: ignore[reportUnknownMemberType]


async def hypercorn_on_asyncio(app: Any, config: Config) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await hypercorn.asyncio.serve(app, config, shutdown_trigger=stopped.wait)  # pyright: ignore[reportUnknownMemberType]


def main(app: Any) -> None:
    kind, fd, grace = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    logging.getLogger("trioprov").addHandler(logging.StreamHandler(sys.stdout))  # stderr is for what nobody foresaw
    if kind.startswith("uvicorn"):
        config = uvicorn.Config(
            app,
            loop="uvloop" if "uvloop" in kind else "asyncio",
            timeout_graceful_shutdown=int(grace),
            log_level="error",
        )
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])
        return
    settings = Config()
    settings.bind = [f"fd://{fd}"]
    settings.graceful_timeout = grace
    settings.loglevel = "ERROR"
    if "trio" in kind:
        trio.run(hypercorn_on_trio, app, settings)
    else:
        asyncio.run(hypercorn_on_asyncio(app, settings))


if __name__ == "__main__":
    main(app)
