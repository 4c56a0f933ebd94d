"""A conversation as a value: the ids on the server, and who we said we were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Conversation(dict[str, Any]):
    """One conversation on one server, as plain JSON.

    It is a `dict` of JSON values, so ``json.dumps(conversation)`` stores it and ``Conversation(json.loads(text))``
    brings it back; `open_session` and `delete_conversation` take it from there. **Its JSON is a secret**: it holds the
    identity (a session cookie, an anonymous user id) under which the service lets anyone read and delete the
    conversation. Its repr shows none of that.

    Treat it as a value: what changes makes a new one (`replace`).

    Every provider uses these keys, beside its own:

    - ``provider``, ``base_url``: whose it is, and where;
    - ``id``: the server's id, once it is known;
    - ``identity``: the credentials minted for this conversation alone;
    - ``credential``: a fingerprint of everything we spoke with when it was created;
    - ``opened_by``: the process that created it;
    - ``started``: whether the server holds a turn of it.
    """

    @property
    def provider(self) -> str:
        """The name of the provider that made it."""
        return cast("str", self.get("provider", ""))

    @property
    def base_url(self) -> str:
        """The server it lives on."""
        return cast("str", self.get("base_url", ""))

    @property
    def id(self) -> str | None:
        """The id under which it is deleted, or `None` while nothing was created."""
        return cast("str | None", self.get("id"))

    @property
    def identity(self) -> Mapping[str, str]:
        """The credentials minted for it; a secret."""
        return cast("Mapping[str, str]", self.get("identity") or {})

    @property
    def started(self) -> bool:
        """Whether the server holds history, so that the next ask sends only what is new."""
        return bool(self.get("started"))

    def replace(self, **changes: Any) -> Conversation:
        """A copy with some keys changed; a value of `None` removes its key."""
        merged = {**self, **changes}
        return Conversation({key: value for key, value in merged.items() if value is not None})

    def to_json(self) -> str:
        """The same as ``json.dumps``: a secret."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Conversation:
        """What `to_json` wrote.

        Raises:
            ValueError: it is not the JSON of a conversation.
        """
        value: object = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("not a conversation: the JSON text is not an object")
        return cls(cast("dict[str, Any]", value))

    def __repr__(self) -> str:
        return f"<Conversation {self.provider or '?'} {self.id or '(not created)'}>"

    __str__ = __repr__
