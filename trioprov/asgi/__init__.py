"""A reply as a response of Starlette or FastAPI, on uvicorn, on hypercorn with asyncio, and on hypercorn with trio.

An endpoint returns ``SSEResponse(trioprov.anyio.open_reply(…))``, or with any other context manager whose value is a
`trioprov.anyio.Reply`. It is entered and left in one task, whatever the client does: when it leaves, the reply is left
too, and the conversation deleted. With `open_replies` a client that was cut off may come back and go on reading.

The map of the room, from the ground up:

- ``_failures``: an error, as an HTTP client hears of it
- ``_wire``: an event, in the words of server-sent events
- ``_held``: one reply, opened and left in one task
- ``_outlet``: one HTTP client, to whom it is sent
- ``_replies``: replies that outlive a connection
- ``_streaming``: a reply on its way to a client
- ``_responses``: what an endpoint returns
"""

from __future__ import annotations

from ._replies import Replies as Replies
from ._replies import open_replies as open_replies
from ._responses import SSEResponse as SSEResponse
from ._responses import TextResponse as TextResponse
