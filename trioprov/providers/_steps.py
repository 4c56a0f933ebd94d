"""The steps of a flow: what a provider wants said, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

from .._conversation import Conversation
from .._errors import RemoteProtocolError
from ..wire import loads

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, relative to the provider's ``base_url``.

    Attributes:
        method: the HTTP method.
        path: path below ``base_url``, percent-encoded.
        headers: all headers but those that follow from the body; secret.
        query: query parameters.
        json: a body sent as JSON, if not `None`.
        form: a body sent form-encoded, if not `None`.
        multipart: a body sent as ``multipart/form-data`` fields, if not `None`.
        creates: the server makes the conversation when it gets this request.
        must_answer: the server begins work by it that only its answer lets us wait for.
        once: sent a second time, it would have its effect twice; `creates` and `must_answer` say as much.
        best_effort: its failure changes nothing: sent once, with a part of the budget.

    Raises:
        ValueError: the path does not begin with a slash: behind a host's name, it could make another host of it.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    query: Mapping[str, str] | None = None
    json: Any = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    multipart: Sequence[tuple[str, str]] | None = field(default=None, repr=False)
    creates: bool = False
    must_answer: bool = False
    once: bool = False
    best_effort: bool = False

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"the path of a request must be a path from the first slash, and not {self.path!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer, its body read to the end (and bounded).

    Attributes:
        status: the HTTP status.
        headers: pairs of lower-case name and value, in order; secret, as they may set cookies.
        body: the content, decoded if it was compressed.
        retry_after: seconds the server asked to wait (``Retry-After``, in either of its forms).
    """

    status: int
    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    retry_after: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300

    def all(self, name: str) -> list[str]:
        """Every value of the header ``name`` (lower case)."""
        return [value for key, value in self.headers if key == name]

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            RemoteProtocolError: it is not JSON.
        """
        return loads(self.body)

    def id(self, key: str = "id") -> str:
        """The id that the body, a JSON object, holds under ``key``.

        Raises:
            RemoteProtocolError: there is none, or one that no path can hold.
        """
        value: object = self.json()
        found = given_id(cast("dict[str, object]", value).get(key)) if isinstance(value, dict) else None
        if found is None:
            raise RemoteProtocolError("the server created something and did not say its id")
        return found


def given_id(value: object) -> str | None:
    """An id that a server gave, if it is one: a string that is not empty, not endless and no dot segment of a path."""
    return value if isinstance(value, str) and 0 < len(value) <= 128 and value not in (".", "..") else None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait ``seconds`` before the next step, because the service still works on the previous answer."""

    seconds: float


Step: TypeAlias = Request | Conversation | Pause
Steps: TypeAlias = Generator[Step, Response | None, T]
NewId: TypeAlias = Callable[[], str]
"""Makes a fresh random UUID; passed in, so that a provider stays a pure value."""
