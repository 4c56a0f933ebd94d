"""Prompts: how a list of messages becomes the one text that each of these services takes.

The shapes are those of the gpt4free helpers that the services' earlier clients used (``format_prompt`` and
``get_last_user_message`` in xtekky/gpt4free), so that answers stay comparable. The caller's list is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

Messages: TypeAlias = str | Sequence[Mapping[str, str]]
"""What `ask` takes: a string (one user message), or a list of ``{"role": …, "content": …}``."""

# The missing "t" is the original's, and the models were prompted with it.
INSTRUCTION = (
    "instruction: this is a conversation beween, a user and an AI assistant, "
    "respond to the latest message, referring to the conversation if needed\n"
)


class Message(NamedTuple):
    """One checked message."""

    role: str
    content: str


def checked_messages(messages: object) -> tuple[Message, ...]:
    """The messages as a tuple.

    Raises:
        TypeError: not a string or a list of mappings with the strings ``role`` and ``content``.
        ValueError: there is none, or one holds half a surrogate pair, which no encoding can send.
    """
    kind = type(messages).__name__
    if isinstance(messages, str):
        found = [Message("user", messages)]
    elif isinstance(messages, Mapping) or not isinstance(messages, Sequence):
        raise TypeError(f"messages must be a string or a list of messages, not {kind}")
    else:
        found = [_message(item) for item in cast("Sequence[object]", messages)]
    if not found:
        raise ValueError("messages must not be empty")
    for message in found:
        try:
            f"{message.role}{message.content}".encode()
        except UnicodeEncodeError as exc:
            raise ValueError("a message holds a lone surrogate, which cannot be sent as UTF-8") from exc
    return tuple(found)


def _message(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise TypeError(f"a message must be a mapping with 'role' and 'content', not {type(item).__name__}")
    fields = cast("Mapping[object, object]", item)
    role, content = fields.get("role"), fields.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise TypeError("a message must hold the strings 'role' and 'content'")
    if not role:
        raise ValueError("a message's role must not be empty")
    return Message(role, content)


def roles(messages: Sequence[Message]) -> str:
    """One message as it is; several as ``Role: content`` lines, ending with ``Assistant:``."""
    if len(messages) == 1:
        return messages[0].content
    lines = [f"{message.role.capitalize()}: {message.content}" for message in messages]
    return "\n".join([*lines, "Assistant:"])


def instruction(messages: Sequence[Message]) -> str:
    """The instruction line, then ``role: content`` lines, ending with ``assistant:``."""
    lines = [f"{message.role}: {message.content}\n" for message in messages]
    return f"{INSTRUCTION}{''.join(lines)}assistant:"


def inst(messages: Sequence[Message]) -> str:
    """The `roles` text in the wrapper of Llama-2's chat template."""
    return f"<s>[INST]\n{roles(messages)}\n[/INST]"


def last_user_run(messages: Sequence[Message]) -> str:
    """The trailing run of user messages, joined by newlines: what the server does not have yet.

    Raises:
        ValueError: the last message is not a user's.
    """
    run: list[str] = []
    for message in reversed(messages):
        if message.role != "user":
            break
        run.append(message.content)
    if not run:
        raise ValueError(
            "the server holds the history, so a later ask sends the user messages at the end of the list; "
            f"this list ends with a message of role {messages[-1].role!r}"
        )
    return "\n".join(reversed(run))
