"""Send a request, pump a body: the only room that knows the HTTP library."""

from __future__ import annotations

from httpx import AsyncBaseTransport as AsyncBaseTransport

from ._connections import Exchange as Exchange
from ._connections import Transport as Transport
