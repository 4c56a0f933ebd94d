"""The same names and meanings as `trioprov`, for anyio applications on trio, asyncio and uvloop.

On anyio's trio backend it is the same core, in your own trio. On asyncio the core runs beside the loop, in one thread
with a trio for each client, so that nothing that happens to a task or to the loop can interrupt a DELETE. Subscriptions
are `anyio.abc.ObjectReceiveStream`, and misuse raises anyio's own errors, on both.

The map of the room, from the ground up:

- ``_errors``: trio's words in anyio's
- ``_thread``: one trio in a thread; ``_pulse``: lets it have its turn
- ``_crossing``: what goes from it to the loop, and calls to it
- ``_feed``: a subscriber on the loop, reading what trio writes
- ``_world``: where the core runs, as the handles see it: here; ``_bridge``: or in a thread
- ``_opening``: the core's context managers, entered from here
- ``_client``, ``_reply``, ``_session``, ``_lanes``, ``_race``, ``_sweep``: the handles
"""

from __future__ import annotations

from .._conversation import Conversation as Conversation
from .._errors import AllFailed as AllFailed
from .._errors import AuthenticationError as AuthenticationError
from .._errors import CleanupFailed as CleanupFailed
from .._errors import ConnectionFailed as ConnectionFailed
from .._errors import ConversationLost as ConversationLost
from .._errors import DeadlineExceeded as DeadlineExceeded
from .._errors import FirstTokenTimeout as FirstTokenTimeout
from .._errors import IdleTimeout as IdleTimeout
from .._errors import IncompleteReply as IncompleteReply
from .._errors import InvalidRequest as InvalidRequest
from .._errors import JournalError as JournalError
from .._errors import ModelNotSupported as ModelNotSupported
from .._errors import Overloaded as Overloaded
from .._errors import ProviderError as ProviderError
from .._errors import RateLimited as RateLimited
from .._errors import RemoteProtocolError as RemoteProtocolError
from .._errors import TotalTimeout as TotalTimeout
from .._errors import TrioprovError as TrioprovError
from .._events import Event as Event
from .._events import Finish as Finish
from .._events import Lagged as Lagged
from .._events import Notice as Notice
from .._events import Queued as Queued
from .._events import Token as Token
from .._events import Usage as Usage
from .._journal import Journal as Journal
from .._journal import JournalEntry as JournalEntry
from .._outcomes import CleanupReport as CleanupReport
from .._outcomes import Outcome as Outcome
from .._retry import Retry as Retry
from .._sweep import SweepReport as SweepReport
from .._transcript import Answer as Answer
from .._transcript import Deadlines as Deadlines
from .._version import __version__ as __version__
from ..providers import PROVIDERS as PROVIDERS
from ..providers import AllenAI as AllenAI
from ..providers import H2o as H2o
from ..providers import OpenAssistant as OpenAssistant
from ._client import Client as Client
from ._client import open_client as open_client
from ._lanes import FanOut as FanOut
from ._lanes import Lane as Lane
from ._lanes import ask as ask
from ._lanes import fan_out as fan_out
from ._lanes import gather as gather
from ._lanes import open_reply as open_reply
from ._race import Race as Race
from ._race import race as race
from ._reply import Reply as Reply
from ._reply import Subscription as Subscription
from ._session import Session as Session
from ._session import delete_conversation as delete_conversation
from ._session import open_session as open_session
from ._session import run_session as run_session
from ._sweep import sweep as sweep
