"""Generation parameters: common names, the services' own, defaults, and what is refused before anything is sent."""

from __future__ import annotations

import dataclasses
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioprov import AllenAI, H2o, OpenAssistant
from trioprov.providers import Provider

ALL: tuple[type[Provider], ...] = (H2o, OpenAssistant, AllenAI)
every = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name)

H2O_DEFAULTS = {
    "temperature": 0.4,
    "truncate": 2048,
    "max_new_tokens": 1024,
    "do_sample": True,
    "repetition_penalty": 1.2,
    "return_full_text": False,
}
OASST_DEFAULTS = {
    "top_k": 50,
    "top_p": None,
    "typical_p": None,
    "temperature": 0.35,
    "repetition_penalty": 1.1111111111111112,
    "max_new_tokens": 1024,
}


class TestTranslation:
    def test_the_defaults_are_those_of_the_earlier_clients(self) -> None:
        assert H2o().options({}) == H2O_DEFAULTS
        assert OpenAssistant().options({}) == OASST_DEFAULTS
        assert AllenAI().options({}) == {}

    @pytest.mark.parametrize(
        ("cls", "name", "sent"),
        [
            *((H2o, "max_tokens", "max_new_tokens"), (H2o, "max_new_tokens", "max_new_tokens")),
            *((OpenAssistant, "max_tokens", "max_new_tokens"), (OpenAssistant, "max_new_tokens", "max_new_tokens")),
            *((AllenAI, "max_tokens", "max_tokens"), (AllenAI, "max_new_tokens", "max_tokens")),
        ],
    )
    def test_the_number_of_tokens_has_the_service_s_name(self, cls: Any, name: str, sent: str) -> None:
        assert cls().options({name: 7}) == {**cls().options({}), sent: 7}

    @every
    def test_temperature_and_top_p_are_called_so_everywhere(self, cls: Any) -> None:
        options = cls().options({"temperature": 0.7, "top_p": 0.9})
        assert (options["temperature"], options["top_p"]) == (0.7, 0.9)

    @pytest.mark.parametrize("cls", [H2o, AllenAI])
    def test_stop_is_sent_as_a_list(self, cls: Any) -> None:
        assert cls().options({"stop": "END"})["stop"] == ["END"]
        assert cls().options({"stop": ("a", "b")})["stop"] == ["a", "b"]

    def test_open_assistant_has_no_stop_and_says_so(self) -> None:
        with pytest.raises(ValueError, match="stop"):
            OpenAssistant().options({"stop": "END"})
        assert "stop" not in OpenAssistant.supported_parameters
        assert OpenAssistant().options({"stop": None}) == OASST_DEFAULTS

    @every
    def test_one_parameter_under_two_names_is_refused(self, cls: Any) -> None:
        with pytest.raises(TypeError, match="max_new_tokens"):
            cls().options({"max_tokens": 5, "max_new_tokens": 6})

    @every
    def test_those_of_an_ask_are_stronger_than_the_provider_s(self, cls: Any) -> None:
        provider = cls(parameters={"max_tokens": 5, "temperature": 0.5})
        name = "max_tokens" if cls is AllenAI else "max_new_tokens"
        assert provider.options({})[name] == 5
        assert provider.options({"max_new_tokens": 6})[name] == 6
        assert provider.options({"max_new_tokens": 6})["temperature"] == 0.5

    @every
    def test_what_the_service_may_learn_one_day_is_passed_on(self, cls: Any) -> None:
        mapping = {"a": [1, None, {"b": "я"}]}
        assert cls().options({"brand_new": mapping})["brand_new"] == mapping
        assert cls(parameters={"brand_new": mapping}).options({})["brand_new"] == mapping


class TestNoneAndZero:
    @every
    def test_none_leaves_a_parameter_out_even_one_with_a_default(self, cls: Any) -> None:
        provider = cls(parameters={"temperature": 0.5, "brand_new": 1})
        options = provider.options(dict.fromkeys(("temperature", "max_tokens", "top_p", "brand_new"), None))
        assert not {"temperature", "max_tokens", "max_new_tokens", "top_p", "brand_new"} & options.keys()
        assert "temperature" not in cls(parameters={"temperature": None}).options({})

    @every
    def test_zero_is_a_value(self, cls: Any) -> None:
        assert cls().options({"temperature": 0})["temperature"] == 0
        assert cls().options({"temperature": 0.0})["temperature"] == 0

    def test_zero_tokens_are_sent_where_the_service_has_not_said_otherwise(self) -> None:
        for cls in (H2o, OpenAssistant):
            assert cls().options({"max_tokens": 0})["max_new_tokens"] == 0
        with pytest.raises(ValueError, match="max_tokens"):
            AllenAI().options({"max_tokens": 0})

    def test_false_is_a_value(self) -> None:
        assert H2o().options({"do_sample": False})["do_sample"] is False

    def test_the_nulls_of_open_assistant_can_be_given_and_taken_out(self) -> None:
        assert OpenAssistant().options({"top_p": 0.5})["top_p"] == 0.5
        assert "top_p" not in OpenAssistant().options({"top_p": None})
        assert "typical_p" not in OpenAssistant(parameters={"typical_p": None}).options({})


class TestRefused:
    @every
    @pytest.mark.parametrize(
        "name",
        [
            *("messages", "model", "provider", "stream", "proxy", "base_url", "headers", "cookies", "parameters"),
            *("timeout", "deadlines", "client", "conversation", "return_conversation", "prompt_style"),
        ],
    )
    def test_a_name_that_is_ours_is_a_type_error(self, cls: Any, name: str) -> None:
        for value in ("x", None):
            with pytest.raises(TypeError, match=name):
                cls().options({name: value})
            with pytest.raises(TypeError, match=name):
                cls(parameters={name: value})

    @every
    def test_every_field_of_a_provider_is_ours(self, cls: Any) -> None:
        for field in dataclasses.fields(cls):
            with pytest.raises(TypeError, match=field.name):
                cls().options({field.name: 1})

    @pytest.mark.parametrize(
        ("cls", "names"),
        [
            (H2o, ["inputs", "options", "is_retry", "use_cache", "web_search_id"]),
            (OpenAssistant, ["chat_id", "parent_id", "model_config_name", "sampling_parameters", "content"]),
            (AllenAI, ["host", "private", "content", "parent", "role", "original", "files"]),
        ],
    )
    def test_a_name_that_is_the_request_s_own_is_a_type_error(self, cls: Any, names: list[str]) -> None:
        for name in names:
            with pytest.raises(TypeError, match=name):
                cls().options({name: "x"})

    @every
    @pytest.mark.parametrize("value", ["0.5", True, [0.5], {}, 1j])
    def test_a_number_of_another_type_is_a_type_error(self, cls: Any, value: Any) -> None:
        with pytest.raises(TypeError, match="temperature"):
            cls().options({"temperature": value})

    @every
    @pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, -math.inf])
    def test_a_number_out_of_range_is_a_value_error(self, cls: Any, value: float) -> None:
        with pytest.raises(ValueError, match="temperature"):
            cls().options({"temperature": value})

    @every
    @pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000], ids=["large", "small", "unprintable"])
    def test_a_number_beyond_all_others_is_refused_or_sent(self, cls: Any, value: int) -> None:
        for name in ("temperature", "max_tokens", "brand_new"):
            with suppress(ValueError):
                cls().options({name: value})

    @pytest.mark.parametrize(
        ("cls", "parameters", "message"),
        [
            (H2o, {"top_p": 1}, "top_p must be at least 0 and below 1, not 1"),
            (H2o, {"typical_p": 1.0}, "typical_p"),
            (H2o, {"top_k": -1}, "top_k must be at least 0, not -1"),
            (H2o, {"truncate": 0}, "truncate"),
            (H2o, {"best_of": 2}, "best_of"),
            (H2o, {"stop": list("abcde")}, "at most 4"),
            (H2o, {"stop": ["a", ""]}, "empty"),
            (OpenAssistant, {"top_p": 1.1}, "top_p must be at least 0 and at most 1, not 1.1"),
            (AllenAI, {"temperature": 1.1}, "temperature"),
            (AllenAI, {"temperature": 0.555}, "multiple of 0.01"),
            (AllenAI, {"top_p": 0}, "top_p"),
            (AllenAI, {"max_tokens": 2049}, "at most 2048"),
            (AllenAI, {"n": 2}, "n must"),
            (AllenAI, {"logprobs": 11}, "logprobs"),
        ],
    )
    def test_a_documented_limit_is_checked(self, cls: Any, parameters: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            cls().options(parameters)
        with pytest.raises(ValueError, match=message):
            cls(parameters=parameters)

    @pytest.mark.parametrize(
        ("cls", "parameters"),
        [
            *((H2o, {"max_tokens": 1.5}), (H2o, {"max_tokens": True}), (H2o, {"do_sample": 1}), (H2o, {"stop": 5})),
            *((H2o, {"stop": [5]}), (H2o, {"stop": b"x"}), (H2o, {"id": 5}), (OpenAssistant, {"system_prompt": 5})),
            *((AllenAI, {"template": 5}), (H2o, {"brand_new": {1}}), (H2o, {"brand_new": object()})),
        ],
    )
    def test_a_documented_type_is_checked(self, cls: Any, parameters: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            cls().options(parameters)

    @every
    @pytest.mark.parametrize("value", [math.nan, [math.inf], "\ud800", {"a": "\udfff"}])
    def test_what_no_json_can_say_is_a_value_error(self, cls: Any, value: Any) -> None:
        with pytest.raises(ValueError, match=r"JSON|surrogate"):
            cls().options({"brand_new": value})

    @every
    def test_what_holds_itself_is_a_value_error(self, cls: Any) -> None:
        endless: list[Any] = []
        endless.append(endless)
        with pytest.raises(ValueError, match="deep"):
            cls().options({"brand_new": endless})
        with pytest.raises(ValueError, match="deep"):
            cls(parameters={"brand_new": endless})


@given(
    st.sampled_from(ALL),
    st.dictionaries(
        st.sampled_from(
            ["max_tokens", "temperature", "top_p", "stop", "top_k", "id", "plugins", "brand_new", "stream"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
            max_leaves=5,
        ),
    ),
)
def test_any_value_is_taken_or_is_a_type_or_value_error(cls: Any, parameters: dict[str, Any]) -> None:
    provider = cls()
    try:
        options = provider.options(parameters)
    except (TypeError, ValueError):
        return
    assert None not in [value for name, value in options.items() if name not in ("top_p", "typical_p")]
    assert provider.options(parameters) == options
