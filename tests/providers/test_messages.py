"""Prompts: the texts of the earlier clients byte for byte, and what is sent when the server holds the history."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioprov import AllenAI, Conversation, H2o, OpenAssistant
from trioprov.providers import Message, Provider, checked_messages

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hi there!"},
    {"role": "user", "content": "Почему небо\nсинее?"},
]
EMPTY, LATER = Conversation(), Conversation(started=True)


def prompt(provider: Any, messages: Any, conversation: Conversation = EMPTY) -> str:
    return provider.prompt(conversation, checked_messages(messages))


class TestFirst:
    @pytest.mark.parametrize("provider", [H2o(), OpenAssistant(), AllenAI()], ids=lambda it: it.name)
    def test_several_messages_become_lines_with_capitalised_roles(self, provider: Any) -> None:
        assert prompt(provider, TALK) == (
            "System: Be brief.\nUser: Hello!\nAssistant: Hi there!\nUser: Почему небо\nсинее?\nAssistant:"
        )

    @pytest.mark.parametrize("role", ["user", "system", "assistant"])
    def test_a_single_message_is_sent_as_it_is_whatever_its_role(self, role: str) -> None:
        assert prompt(H2o(), [{"role": role, "content": "  a\n"}]) == "  a\n"

    def test_a_string_is_one_user_message(self) -> None:
        assert prompt(H2o(), "  Привет ") == "  Привет "
        assert checked_messages("x") == checked_messages([{"role": "user", "content": "x"}])

    def test_the_instruction_is_the_earlier_client_s_byte_for_byte(self) -> None:
        """Its author typed "beween", and a comma after it."""
        assert prompt(H2o(prompt_style="instruction"), TALK).encode() == (
            b"instruction: this is a conversation beween, a user and an AI assistant, respond to the latest message, "
            b"referring to the conversation if needed\n"
            b"system: Be brief.\nuser: Hello!\nassistant: Hi there!\n"
            + "user: Почему небо\nсинее?\n".encode()
            + b"assistant:"
        )

    def test_the_instruction_stands_before_a_single_message_too(self) -> None:
        assert prompt(H2o(prompt_style="instruction"), "Hi").endswith("if needed\nuser: Hi\nassistant:")

    def test_the_llama_2_wrapper_is_around_the_same_lines(self) -> None:
        assert prompt(OpenAssistant(prompt_style="inst"), TALK) == (
            f"<s>[INST]\n{prompt(OpenAssistant(), TALK)}\n[/INST]"
        )
        assert prompt(OpenAssistant(prompt_style="inst"), "Hi") == "<s>[INST]\nHi\n[/INST]"

    @pytest.mark.parametrize(
        "provider", [H2o(), H2o(prompt_style="instruction"), OpenAssistant(prompt_style="inst"), AllenAI()]
    )
    @pytest.mark.parametrize("messages", ["", " \n", [{"role": "user", "content": ""}]])
    def test_an_empty_prompt_is_refused_whatever_would_stand_around_it(self, messages: Any, provider: Provider) -> None:
        with pytest.raises(ValueError, match="empty"):
            prompt(provider, messages)


class TestLater:
    @pytest.mark.parametrize(
        "provider",
        [H2o(prompt_style="instruction"), OpenAssistant(prompt_style="inst"), AllenAI()],
        ids=lambda it: it.name,
    )
    def test_only_the_user_messages_at_the_end_are_sent_as_they_are(self, provider: Any) -> None:
        assert prompt(provider, TALK, LATER) == "Почему небо\nсинее?"
        assert (
            prompt(provider, [*TALK, {"role": "user", "content": "And why?"}], LATER) == "Почему небо\nсинее?\nAnd why?"
        )
        assert prompt(provider, "One more", LATER) == "One more"

    @pytest.mark.parametrize("role", ["assistant", "system", "tool", "User"])
    def test_a_list_that_does_not_end_with_a_user_is_refused(self, role: str) -> None:
        with pytest.raises(ValueError, match=repr(role)):
            prompt(H2o(), [*TALK, {"role": role, "content": "x"}], LATER)

    def test_blank_user_messages_are_refused(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            prompt(H2o(), [*TALK[:-1], {"role": "user", "content": " "}], LATER)

    @pytest.mark.parametrize("conversation", [EMPTY, LATER])
    def test_the_caller_s_list_stays_as_it_was(self, conversation: Conversation) -> None:
        messages = copy.deepcopy(TALK)
        for _ in range(2):
            prompt(H2o(), messages, conversation)
        assert messages == TALK


class TestChecked:
    @pytest.mark.parametrize(
        "messages",
        [
            *(None, 5, b"x", [b"x"], {"role": "user", "content": "x"}, ["x"], [("user", "x")], [None]),
            *([{"role": "user"}], [{"content": "x"}], [{"role": 5, "content": "x"}], [{"role": "user", "content": 5}]),
            *([{"role": "user", "content": [{"type": "text", "text": "x"}]}], iter([{"role": "user", "content": "x"}])),
        ],
    )
    def test_what_is_no_list_of_messages_is_a_type_error(self, messages: Any) -> None:
        with pytest.raises(TypeError):
            checked_messages(messages)

    @pytest.mark.parametrize(
        "messages", [[], (), [{"role": "", "content": "x"}], "\ud800", [{"role": "\udfff", "content": "x"}]]
    )
    def test_what_cannot_be_sent_is_a_value_error(self, messages: Any) -> None:
        with pytest.raises(ValueError, match="message"):
            checked_messages(messages)

    def test_other_keys_of_a_message_are_left_alone(self) -> None:
        assert checked_messages(({"role": "user", "content": "x", "name": 5},)) == (Message("user", "x"),)


roles = st.sampled_from(["user", "assistant", "system"])
texts = st.text(st.characters(codec="utf-8"), min_size=1)


@given(st.lists(st.builds(Message, roles, texts), min_size=1))
def test_a_later_prompt_is_the_longest_run_of_user_messages_at_the_end(messages: Sequence[Message]) -> None:
    run: list[str] = []
    for message in messages:
        run = [*run, message.content] if message.role == "user" else []
    if "".join(run).strip():
        assert H2o().prompt(LATER, messages) == "\n".join(run)
    else:
        with pytest.raises(ValueError, match=r"empty|ends with"):
            H2o().prompt(LATER, messages)
