"""Framing: from bytes, cut anywhere, to lines, events and JSON values.

The lowest floor. Nothing here has a clock, a socket or an ``await``; nothing knows a service. A decoder is fed with
``receive_data`` and at the end ``receive_eof``; both return what has become complete. Where the bytes were cut never
changes what comes out, the work is linear in their number, and what is kept back is bounded. What the service may not
send raises `trioprov.RemoteProtocolError`.
"""

from __future__ import annotations

from ._json import loads as loads
from ._json import reader as reader
from ._lines import LineSplitter as LineSplitter
from ._ndjson import NDJSONDecoder as NDJSONDecoder
from ._sse import ServerSentEvent as ServerSentEvent
from ._sse import SSEDecoder as SSEDecoder
from ._values import NDJSONValues as NDJSONValues
from ._values import SSEValues as SSEValues
