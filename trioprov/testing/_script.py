"""What an emulator is told to say, and what it is told to do wrong."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong with the requests of one step.

    A fault counts the requests of its step from the moment it was added; it lets ``after`` of them pass and strikes
    the next ``times``. Of several that would strike the same request, the one added first does, and only it is used
    up. Several effects in one fault are combined (a delay and then a status, say).

    The streaming effects count *content events*: an event with a token for chat-ui; every event but ``pending`` for
    Open Assistant; every line for olmo-api, the thread at the beginning included. Heartbeats never count.

    Attributes:
        on: the step, as in `RecordedRequest.step`; ``"*"`` is any.
        after: how many matching requests are let pass first.
        times: how many are struck then; `math.inf` for all.
        delay: seconds before the request is looked at.
        status: answer with this status instead; nothing is done.
        body: the body of that answer.
        headers: its header fields.
        hang: accept the request and never answer; nothing is done.
        drop: close the connection; nothing is done.
        lose_response: do the work, then close the connection without answering.
        delay_response: do the work at once, answer after so many seconds.
        cut_after: after n content events, close the connection in the middle of the body.
        reset_after: the same, with an RST.
        end_after: after n content events, end the body cleanly, but without the protocol's own end.
        stall_after: after n content events, silence; the connection stays open.
        inject: bytes that are none of the protocol's business…
        inject_at: …sent before the n-th content event (0 is the first).
    """

    on: str
    after: int = 0
    times: float = 1
    delay: float = 0.0
    status: int | None = None
    body: bytes | str = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    hang: bool = False
    drop: bool = False
    lose_response: bool = False
    delay_response: float = 0.0
    cut_after: int | None = None
    reset_after: int | None = None
    end_after: int | None = None
    stall_after: int | None = None
    inject: bytes = b""
    inject_at: int | None = None


NO_FAULT = Fault(on="", times=0)


class FaultBox:
    """The faults of one emulator and how far each has got; filled from any thread."""

    def __init__(self, steps: Sequence[str], faults: Sequence[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._steps = steps
        self._faults: list[_Counted] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """From now on, ``fault`` too.

        Raises:
            ValueError: the service has no such step.
        """
        if fault.on not in (*self._steps, "*"):
            raise ValueError(f"no step {fault.on!r}; there are {', '.join(self._steps)}, and '*' for all")
        with self._lock:
            self._faults.append(_Counted(fault))

    def take(self, step: str) -> Fault:
        """The fault that strikes this request, or one without effects."""
        with self._lock:
            struck = NO_FAULT
            for counted in self._faults:
                if counted.fault.on not in (step, "*"):
                    continue
                counted.seen += 1
                if struck is NO_FAULT and counted.seen > counted.fault.after and counted.left > 0:
                    counted.left -= 1
                    struck = counted.fault
            return struck


class _Counted:
    """A fault and its two counters."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen = 0
        self.left = fault.times


@dataclass(frozen=True, kw_only=True)
class Script:
    """What any emulator can be told; each service has a subclass with the knobs that only it has.

    Attributes:
        tokens: the pieces of the answer; the default is a short answer of the service's own.
        text: the answer as one text instead; it is cut after every blank and every 8 characters.
        first_delay: seconds before the first token.
        token_delay: seconds before each of the others.
        heartbeat: seconds between the service's own signs of life.
        forever: repeat the tokens without end, whatever length was asked for.
        chunk_bytes: cut bodies into chunks of so many bytes, wherever that falls in a line or a character.
        keep_alive: seconds after which an idle connection is closed.
        faults: what goes wrong.
    """

    tokens: Sequence[str] | None = None
    text: str | None = None
    first_delay: float = 0.0
    token_delay: float = 0.0
    heartbeat: float = 15.0
    forever: bool = False
    chunk_bytes: int | None = None
    keep_alive: float = math.inf
    faults: Sequence[Fault] = ()

    def __post_init__(self) -> None:
        if self.tokens is not None and self.text is not None:
            raise ValueError("a script has tokens or a text, not both")
        if self.forever and not self.pieces(("x",)):
            raise ValueError("nothing cannot be said forever: the script has no tokens")
        if self.chunk_bytes is not None and self.chunk_bytes < 1:
            raise ValueError("chunk_bytes must be at least 1")

    def pieces(self, default: Sequence[str]) -> tuple[str, ...]:
        """The tokens to send, ``default`` being the service's own answer."""
        if self.text is not None:
            return cut(self.text)
        return tuple(default if self.tokens is None else self.tokens)


def cut(text: str) -> tuple[str, ...]:
    """A text as pieces that a model might have made: a word keeps the blank before it, long words are split."""
    pieces: list[str] = []
    start = 0
    for position in range(1, len(text) + 1):
        if position == len(text) or text[position] == " " or position - start == 8:
            pieces.append(text[start:position])
            start = position
    return tuple(pieces)
