"""One writer, many readers: the log of a reply (`_log`), and a reader's channel (`_subscription`)."""

from __future__ import annotations

from ._log import STRIDE as STRIDE
from ._log import Broadcast as Broadcast
from ._log import Cursor as Cursor
from ._log import WhenFull as WhenFull
from ._subscription import Subscription as Subscription
