"""Send a request, pump a body: the only room that knows HTTP and its libraries.

From the ground up: ``_parser`` (bytes), ``_wires`` (sockets and TLS), ``_http1`` (a transport for httpx), ``_bodies``
and ``_pools`` (which httpx client serves whom), ``_connections`` (the door).
"""

from __future__ import annotations

from httpx import AsyncBaseTransport as AsyncBaseTransport

from ._connections import Exchange as Exchange
from ._connections import Transport as Transport
