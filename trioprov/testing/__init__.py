"""Emulators of the services, written from the servers' sources and not from our providers, and what tests ask them.

A room has one sentence: `_server` is HTTP on a trio stream; `_request` is one request, kept; `_script` is what an
emulator is told; `_service` is what the services share; `_h2o` (on `_sveltekit` and `_tgi`), `_open_assistant` (on
`_oasst_server` and `_oasst_worker`) and `_allenai` (on `_olmo_rules`) are the services; `_emulator` runs them;
`_everywhere` strikes a scenario at every point; `_once` is one of those runs, `_strike` how it is struck, `_memory` the
network that it uses; `_check` asks a provider class for its duties, and needs no emulator.
"""

from __future__ import annotations

from ._check import check_provider as check_provider
from ._emulator import Emulator as Emulator
from ._emulator import assert_no_orphans as assert_no_orphans
from ._emulator import open_emulator as open_emulator
from ._emulator import serve_emulator as serve_emulator
from ._everywhere import EverywhereReport as EverywhereReport
from ._everywhere import Leftover as Leftover
from ._everywhere import cancel_everywhere as cancel_everywhere
from ._oasst_worker import OpenAssistantScript as OpenAssistantScript
from ._olmo_rules import AllenAIScript as AllenAIScript
from ._request import RecordedRequest as RecordedRequest
from ._script import Fault as Fault
from ._script import Script as Script
from ._strike import Struck as Struck
from ._tgi import H2oScript as H2oScript
