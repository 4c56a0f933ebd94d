"""What each service says. Adding one: a file here, and a line below."""

from __future__ import annotations

from ._allenai import AllenAI as AllenAI
from ._base import Provider as Provider
from ._base import checked_provider as checked_provider
from ._decoder import Decoder as Decoder
from ._decoder import Stream as Stream
from ._h2o import H2o as H2o
from ._messages import Message as Message
from ._messages import Messages as Messages
from ._messages import checked_messages as checked_messages
from ._open_assistant import OpenAssistant as OpenAssistant
from ._parameters import Check as Check
from ._parameters import flag as flag
from ._parameters import integer as integer
from ._parameters import number as number
from ._parameters import strings as strings
from ._parameters import text as text
from ._registry import Registry as Registry
from ._steps import NewId as NewId
from ._steps import Pause as Pause
from ._steps import Request as Request
from ._steps import Response as Response
from ._steps import Step as Step
from ._steps import Steps as Steps

PROVIDERS = Registry(H2o, OpenAssistant, AllenAI)
