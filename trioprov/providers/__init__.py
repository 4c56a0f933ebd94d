"""What each service says. Adding one: a file here, and a line below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._allenai import AllenAI as AllenAI
from ._base import Decoder as Decoder
from ._base import NewId as NewId
from ._base import Pause as Pause
from ._base import Provider as Provider
from ._base import Request as Request
from ._base import Response as Response
from ._base import Step as Step
from ._base import Steps as Steps
from ._base import Stream as Stream
from ._h2o import H2o as H2o
from ._messages import Message as Message
from ._messages import Messages as Messages
from ._messages import checked as checked_messages
from ._open_assistant import OpenAssistant as OpenAssistant

if TYPE_CHECKING:
    from collections.abc import Mapping

PROVIDERS: Mapping[str, type[Provider]] = {provider.name: provider for provider in (H2o, OpenAssistant, AllenAI)}
