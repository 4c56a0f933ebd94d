"""What the tests of every room share: the services, each slow enough to be caught at any step."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trioprov import AllenAI, H2o, OpenAssistant
from trioprov.providers import Provider
from trioprov.testing import Fault

# Where a server takes its time, so that an instant chosen by a clock can fall into each step.
SLOW: dict[type[Provider], list[Fault]] = {
    H2o: [Fault(on=step, delay_response=0.02, times=math.inf) for step in ("create", "stop", "delete")],
    OpenAssistant: [Fault(on=step, delay_response=0.02, times=math.inf) for step in ("create", "assistant", "delete")],
    AllenAI: [Fault(on="delete", delay_response=0.02, times=math.inf)],
}

SERVICES = (H2o, OpenAssistant, AllenAI)


@pytest.fixture(params=SERVICES, ids=lambda cls: cls.name)
def service(request: pytest.FixtureRequest) -> type[Provider]:
    return request.param


@pytest.fixture
def slow(service: type[Provider]) -> dict[str, Any]:
    """A script under which a session takes its time at every step."""
    return {"first_delay": 0.03, "token_delay": 0.003, "faults": SLOW[service]}
