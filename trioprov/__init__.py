"""Chat providers as nursery-scoped sessions: whatever happens, the conversation is deleted on its server.

The map of the house, from the ground up; imports only go down:

- ``_events``, ``_errors``, ``_outcomes``, ``_conversation``: the words everyone uses
- ``wire``: framing, pure
- ``providers``: what each service says, pure
- ``_transport`` (httpx, llhttp), ``_journal`` (sqlite3), ``_broadcast`` (one writer, many readers), ``_flow`` (carries
  a provider's steps out)
- ``_retry``: what is worth another try; ``_cleanup``: how a debt is settled
- ``_debt``: what one conversation owes its server; ``_sweep``: what dead processes left
- ``_client`` (connections, root tasks), ``_transcript`` (one answer being written, and its clock)
- ``_reply``: the same being read
- ``_line`` (what is being said to a server, and when it may be broken off), ``_turn`` (one question, one answer),
  ``_opening`` (how a conversation begins)
- ``_owner``: the task that owns one conversation
- ``_exits``: what leaving a block comes to; ``_session``: a conversation's handle
- ``_lane``: a session for one question; ``_fanout``: many of those; ``_race``: the first of those
- ``anyio``: the same names for anyio applications, on asyncio and trio
- ``testing``: emulators of the services
- ``asgi``: a reply as a response of Starlette and FastAPI
- ``cli``: the command line
"""

from __future__ import annotations

from ._broadcast import Subscription as Subscription
from ._client import Client as Client
from ._client import open_client as open_client
from ._conversation import Conversation as Conversation
from ._errors import AllFailed as AllFailed
from ._errors import AuthenticationError as AuthenticationError
from ._errors import CleanupFailed as CleanupFailed
from ._errors import ConnectionFailed as ConnectionFailed
from ._errors import ConversationLost as ConversationLost
from ._errors import DeadlineExceeded as DeadlineExceeded
from ._errors import FirstTokenTimeout as FirstTokenTimeout
from ._errors import IdleTimeout as IdleTimeout
from ._errors import IncompleteReply as IncompleteReply
from ._errors import InvalidRequest as InvalidRequest
from ._errors import JournalError as JournalError
from ._errors import ModelNotSupported as ModelNotSupported
from ._errors import Overloaded as Overloaded
from ._errors import ProviderError as ProviderError
from ._errors import RateLimited as RateLimited
from ._errors import RemoteProtocolError as RemoteProtocolError
from ._errors import TotalTimeout as TotalTimeout
from ._errors import TrioprovError as TrioprovError
from ._events import Event as Event
from ._events import Finish as Finish
from ._events import Lagged as Lagged
from ._events import Notice as Notice
from ._events import Queued as Queued
from ._events import Token as Token
from ._events import Usage as Usage
from ._fanout import FanOut as FanOut
from ._fanout import fan_out as fan_out
from ._fanout import gather as gather
from ._journal import Journal as Journal
from ._journal import JournalEntry as JournalEntry
from ._lane import Lane as Lane
from ._lane import ask as ask
from ._lane import open_reply as open_reply
from ._outcomes import CleanupReport as CleanupReport
from ._outcomes import Outcome as Outcome
from ._race import Race as Race
from ._race import race as race
from ._reply import Reply as Reply
from ._retry import Retry as Retry
from ._session import Session as Session
from ._session import delete_conversation as delete_conversation
from ._session import open_session as open_session
from ._session import run_session as run_session
from ._sweep import SweepReport as SweepReport
from ._sweep import sweep as sweep
from ._transcript import Answer as Answer
from ._transcript import Deadlines as Deadlines
from ._version import __version__ as __version__
from .providers import PROVIDERS as PROVIDERS
from .providers import AllenAI as AllenAI
from .providers import H2o as H2o
from .providers import OpenAssistant as OpenAssistant
