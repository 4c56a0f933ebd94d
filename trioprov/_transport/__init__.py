"""Send a request, pump a body: the only room that knows HTTP and its libraries.

From the ground up: ``_parser`` (bytes), ``_wires`` (sockets and TLS), ``_outgoing`` (a request in HTTP's words),
``_http1`` (our transport), ``_bodies`` (an answer on its way in), ``_interception`` (whether httpx's client is passed
by) and ``_pools`` (who carries what), ``_connections`` (the door).
"""

from __future__ import annotations

from httpx import AsyncBaseTransport as AsyncBaseTransport

from ._connections import Exchange as Exchange
from ._connections import Transport as Transport
