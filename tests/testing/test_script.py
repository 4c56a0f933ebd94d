"""`Fault` and `Script`: what is counted, and what is refused."""

import math
from typing import Any

import pytest

from trioprov.testing import Fault, H2oScript, Script
from trioprov.testing._script import FaultBox, cut

STEPS = ("create", "delete")


def test_a_fault_lets_some_requests_pass_and_strikes_the_next() -> None:
    fault = Fault(on="create", after=1, times=2)
    box = FaultBox(STEPS, [fault])
    assert [box.take(step) is fault for step in ("create", "delete", "create", "create", "create")] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_a_star_is_every_step_and_infinity_every_time() -> None:
    fault = Fault(on="*", times=math.inf)
    box = FaultBox(STEPS, [fault])
    assert all(box.take(step) is fault for step in ("create", "delete", "other") * 3)


def test_the_fault_added_first_strikes_and_only_it_is_used_up() -> None:
    first, second = Fault(on="create"), Fault(on="*")
    box = FaultBox(STEPS, [first])
    box.add(second)
    assert box.take("create") is first
    assert box.take("delete") is second
    assert box.take("delete") not in (first, second)


def test_a_fault_counts_from_when_it_was_added() -> None:
    box = FaultBox(STEPS)
    box.take("create")
    fault = Fault(on="create", after=1)
    box.add(fault)
    assert box.take("create") is not fault
    assert box.take("create") is fault


def test_a_step_that_the_service_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no step 'crate'; there are create, delete"):
        FaultBox(STEPS, [Fault(on="crate")])


@pytest.mark.parametrize("fields", [{"tokens": ["a"], "text": "a"}, {"forever": True, "text": ""}, {"chunk_bytes": 0}])
def test_a_script_that_contradicts_itself_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Script(**fields)


def test_forever_is_fine_with_the_default_answer() -> None:
    assert H2oScript(forever=True).pieces(("a", "b")) == ("a", "b")


@pytest.mark.parametrize("text", ["", "one two", " lead", "a-very-long-word and more", "ж ☃ 🌤\n\nx"])
def test_a_text_is_cut_without_losing_a_character(text: str) -> None:
    pieces = cut(text)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 8 for piece in pieces)
