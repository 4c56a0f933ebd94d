"""A provider is a value: what it takes, what it refuses, what it shows, and which headers and cookies it sends."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import pickle
import sys
from http.cookiejar import Cookie, CookieJar
from typing import Any

import pytest

import trioprov
from trioprov import (
    PROVIDERS,
    AllenAI,
    AuthenticationError,
    Conversation,
    H2o,
    InvalidRequest,
    ModelNotSupported,
    OpenAssistant,
    Overloaded,
    ProviderError,
    RateLimited,
    RemoteProtocolError,
)
from trioprov.providers import Provider, Request, Response
from trioprov.providers._refusal import shortened

ALL: tuple[type[Provider], ...] = (H2o, OpenAssistant, AllenAI)
every = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name)


def a_request(provider: Provider, conversation: Conversation | None = None) -> Request:
    """The first request that closing a conversation sends."""
    step = next(provider.close(conversation or provider.new_conversation().replace(id="1")))
    assert isinstance(step, Request)
    return step


class TestModels:
    @every
    @pytest.mark.parametrize("model", ["", None])
    def test_an_empty_model_is_the_default(self, cls: Any, model: Any) -> None:
        assert cls().model == cls(model).model == cls(model=model).model == cls.default_model

    @every
    def test_an_alias_becomes_the_full_id(self, cls: Any) -> None:
        for alias, full in cls.model_aliases.items():
            assert cls(alias).model == full
            assert full in cls.models

    @every
    def test_a_full_id_stays_as_it_is(self, cls: Any) -> None:
        assert [cls(model).model for model in cls.models] == list(cls.models)

    @every
    def test_a_service_of_its_own_has_the_models_it_has(self, cls: Any) -> None:
        with pytest.raises(ModelNotSupported) as caught:
            cls("gpt-5")
        assert isinstance(caught.value, InvalidRequest)
        assert isinstance(caught.value, ValueError)
        for model in (*cls.models, *cls.model_aliases):
            assert model in str(caught.value)

    @every
    def test_the_own_service_is_recognised_however_its_address_is_written(self, cls: Any) -> None:
        written = cls.default_base_url.replace("https://", "HTTPS://").upper() + "/"
        with pytest.raises(ModelNotSupported):
            cls("gpt-5", base_url=written)
        assert cls(base_url=written) == cls()

    @every
    def test_a_self_hosted_server_may_have_any_model(self, cls: Any) -> None:
        assert cls("gpt-5", base_url="http://localhost:3000").model == "gpt-5"
        assert cls(base_url="http://localhost:3000").model == cls.default_model

    def test_the_h2o_models_are_the_three_it_had(self) -> None:
        prefix = "h2oai/h2ogpt-gm-oasst1-en-2048-"
        assert H2o.default_model == f"{prefix}falcon-40b-v1"
        assert H2o.model_aliases == {
            "falcon-40b": f"{prefix}falcon-40b-v1",
            "falcon-7b": f"{prefix}falcon-7b-v3",
            "llama-13b": f"{prefix}open-llama-13b",
        }
        assert set(H2o.models) == set(H2o.model_aliases.values())

    def test_the_open_assistant_models_are_those_of_its_last_configuration(self) -> None:
        """oasst_shared/model_configs.py, without the two that are for tests."""
        assert OpenAssistant.default_model == "OA_SFT_Llama_30B_6"
        assert len(OpenAssistant.models) == len(set(OpenAssistant.models)) == 23
        assert "OA_SFT_Llama_30B_7e3" in OpenAssistant.models
        assert "OA_SFT_Llama_30Bq_7e3" not in OpenAssistant.models

    def test_the_allenai_aliases_are_resolved_at_once(self) -> None:
        assert AllenAI.default_model == "tulu3-405b"
        assert AllenAI("llama-3.1-405b").model == "tulu3-405b"
        assert len(AllenAI.models) == 7

    @pytest.mark.parametrize(
        ("model", "host"), [(model, "inferd" if model == "tulu3-405b" else "modal") for model in AllenAI.models]
    )
    def test_an_allenai_model_is_asked_of_the_host_that_serves_it(self, model: str, host: str, drive: Any) -> None:
        fields = asked(AllenAI(model), drive)
        assert fields["model"] == model
        assert fields["host"] == host
        assert asked(AllenAI(model, host="beaker_queues"), drive)["host"] == "beaker_queues"

    def test_another_model_of_the_same_provider_has_its_own_host(self, drive: Any) -> None:
        assert asked(dataclasses.replace(AllenAI(), model="olmoe-0125"), drive)["host"] == "modal"


def asked(provider: AllenAI, drive: Any) -> dict[str, str]:
    steps = provider.ask(provider.new_conversation(), trioprov.providers.checked_messages("?"), {}, str)
    return dict(drive(steps).value.request.multipart)


class TestAttributes:
    def test_the_table_of_services_is_what_it_is(self) -> None:
        table = {
            cls: (cls.name, cls.default_base_url, cls.needs_auth, cls.working, cls.cleanup_documented) for cls in ALL
        }
        assert table == {
            H2o: ("h2o", "https://gpt-gm.h2o.ai", False, False, True),
            OpenAssistant: ("openassistant", "https://open-assistant.io", True, False, True),
            AllenAI: ("allenai", "https://olmo-api.allen.ai", False, None, True),
        }
        assert AllenAI.label == "Ai2 Playground"
        assert AllenAI.url == "https://playground.allenai.org"

    @every
    def test_all_stream_and_hold_the_history_and_none_has_system_messages(self, cls: Any) -> None:
        assert (cls.supports_stream, cls.supports_message_history, cls.supports_system_message) == (True, True, False)
        assert cls.supported_parameters

    def test_only_what_an_anonymous_user_leaves_on_allenai_expires(self) -> None:
        assert AllenAI().expires_after == 24 * 3600
        assert AllenAI(headers={"Authorization": "Bearer x"}).expires_after is None
        assert H2o().expires_after is OpenAssistant().expires_after is None

    @every
    def test_a_new_conversation_is_empty_plain_json(self, cls: Any) -> None:
        conversation = cls().new_conversation()
        assert conversation == {"provider": cls.name, "base_url": cls.default_base_url}
        assert Conversation.from_json(conversation.to_json()) == conversation


class TestValue:
    FULL: dict[str, Any] = {  # noqa: RUF012
        "base_url": "http://localhost:1/x",
        "headers": {"X-Api-Key": "the-api-key", "Accept-Language": "ru"},
        "cookies": {"session": "the-cookie"},
        "proxy": "http://me:the-password@proxy:3128",
        "parameters": {"temperature": 0.5, "extra": [1, {"a": [None]}]},
    }

    @every
    def test_equal_arguments_make_equal_providers_with_equal_hashes(self, cls: Any) -> None:
        one, two = cls(**self.FULL), cls(**copy.deepcopy(self.FULL))
        assert one == two
        assert hash(one) == hash(two)
        assert {one: 1}[two] == 1

    @every
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("model", "other"),
            ("base_url", "http://localhost:2"),
            ("headers", {}),
            ("cookies", {"session": "another"}),
            ("proxy", None),
            ("parameters", {"temperature": 0}),
        ],
    )
    def test_every_field_makes_a_difference(self, cls: Any, field: str, value: Any) -> None:
        assert cls(**self.FULL) != cls(**{**self.FULL, field: value})

    def test_providers_of_different_classes_are_never_equal(self) -> None:
        same: dict[str, Any] = {"model": "m", "base_url": "http://localhost"}
        assert len({cls(**same) for cls in ALL}) == 3

    @every
    def test_a_provider_survives_pickle_copy_and_replace(self, cls: Any) -> None:
        provider = cls(**self.FULL)
        for twin in (
            pickle.loads(pickle.dumps(provider)),
            copy.copy(provider),
            copy.deepcopy(provider),
            dataclasses.replace(provider),
        ):
            assert twin == provider
            assert hash(twin) == hash(provider)
            assert repr(twin) == repr(provider)
            assert a_request(twin) == a_request(provider)

    @every
    def test_a_provider_cannot_be_changed(self, cls: Any) -> None:
        provider = cls(**self.FULL)
        with pytest.raises(dataclasses.FrozenInstanceError):
            provider.model = "other"
        for mapping in (provider.headers, provider.cookies, provider.parameters):
            with pytest.raises(TypeError):
                mapping["x"] = "y"

    @every
    def test_what_the_caller_changes_afterwards_changes_nothing(self, cls: Any) -> None:
        arguments = copy.deepcopy(self.FULL)
        provider = cls(**arguments)
        arguments["headers"]["X-More"] = "1"
        arguments["cookies"]["session"] = "another"
        arguments["parameters"]["extra"][1]["a"].append(5)
        assert provider == cls(**self.FULL)
        assert provider.options({})["extra"] == [1, {"a": [None]}]

    @every
    def test_everything_but_the_model_is_a_keyword(self, cls: Any) -> None:
        with pytest.raises(TypeError):
            cls("", "http://localhost")

    @every
    def test_the_repr_shows_no_secret(self, cls: Any) -> None:
        shown = repr(cls(**self.FULL))
        for secret in ("the-api-key", "the-cookie", "the-password"):
            assert secret not in shown
        assert shown == str(cls(**self.FULL))
        assert shown == (
            f"{cls.__name__}({cls.default_model!r}, base_url='http://localhost:1/x', "
            "proxy='http://me:***@proxy:3128', headers=<X-Api-Key, Accept-Language: values hidden>, "
            "cookies=<session: values hidden>)"
        )

    @every
    def test_the_repr_of_a_request_shows_no_secret(self, cls: Any) -> None:
        shown = repr(a_request(cls(**self.FULL)))
        assert "the-api-key" not in shown
        assert "the-cookie" not in shown

    @pytest.mark.parametrize(
        ("cls", "arguments", "kind"),
        [
            (H2o, {"model": 5}, TypeError),
            (H2o, {"model": ["falcon-40b"]}, TypeError),
            (H2o, {"base_url": 5}, TypeError),
            (H2o, {"base_url": b"http://x"}, TypeError),
            (H2o, {"headers": [("a", "b")]}, TypeError),
            (H2o, {"headers": {"a": 5}}, TypeError),
            (H2o, {"headers": {5: "a"}}, TypeError),
            (H2o, {"cookies": "a=b"}, TypeError),
            (H2o, {"cookies": {"a": 5}}, TypeError),
            (H2o, {"proxy": 5}, TypeError),
            (H2o, {"parameters": [1]}, TypeError),
            (H2o, {"parameters": {5: 1}}, TypeError),
            (H2o, {"prompt_style": "inst"}, ValueError),
            (H2o, {"share_with_model_authors": "false"}, TypeError),
            (H2o, {"cookie_name": "a b"}, ValueError),
            (H2o, {"cookie_name": ""}, ValueError),
            (OpenAssistant, {"prompt_style": "instruction"}, ValueError),
            (AllenAI, {"host": 5}, TypeError),
            (AllenAI, {"host": ""}, ValueError),
            (AllenAI, {"private": "yes"}, TypeError),
        ],
    )
    def test_a_wrong_value_is_refused_at_once(self, cls: Any, arguments: dict[str, Any], kind: type[Exception]) -> None:
        with pytest.raises(kind):
            cls(**arguments)

    @pytest.mark.parametrize(
        "url",
        [
            *("", "http://", "localhost:3000", "ftp://host", "http://host/?a=b", "http://host/#x", "http://host?"),
            *("http://host#", "http://ho st", "http://host\n", "http://me:the-password@host", "http://host:x"),
            *(
                "http://host:99999",
                "http://[::1",
                "http://a..b",
                "http://a\\b",
                "http://" + "a" * 64,
                "http://пример.рф",
                "http://host/путь",
            ),
        ],
    )
    def test_a_base_url_that_nothing_can_be_below_is_refused_and_not_quoted(self, url: str) -> None:
        if not url:
            assert H2o(base_url=url).base_url == H2o.default_base_url
            return
        with pytest.raises(ValueError, match="base_url") as caught:
            H2o(base_url=url)
        assert "the-password" not in str(caught.value)
        assert caught.value.__cause__ is None

    @pytest.mark.parametrize(
        "proxy", ["me:the-password@host", "http://me:the-password@host:x", "ftp://me:the-password@h"]
    )
    def test_a_proxy_that_is_none_is_refused_and_not_quoted(self, proxy: str) -> None:
        with pytest.raises(ValueError, match="proxy") as caught:
            H2o(proxy=proxy)
        assert "the-password" not in str(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            "http://localhost:3000/",
            "http://[::1]:80/chat//",
            "http://my_host.",
            "http://127.0.0.1",
            "https://a.example/b/c",
        ],
    )
    def test_a_base_url_has_no_slash_at_its_end(self, url: str) -> None:
        assert H2o(base_url=url).base_url == url.rstrip("/")


class TestHeaders:
    @every
    def test_every_request_says_who_we_are_and_nothing_of_a_browser(self, cls: Any) -> None:
        headers = a_request(cls()).headers
        assert headers["user-agent"] == f"trioprov/{trioprov.__version__}"
        assert headers["accept"] == "*/*"
        assert set(headers) <= {"user-agent", "accept", "origin", "referer"}

    @every
    def test_the_headers_of_the_user_are_stronger_whatever_their_case(self, cls: Any) -> None:
        headers = {"USER-AGENT": "mine", "Origin": "https://mine", "X-More": "1", "Authorization": "Bearer x"}
        sent = a_request(cls(headers=headers)).headers
        assert sent["user-agent"] == "mine"
        assert sent["origin"] == "https://mine"
        assert sent["x-more"] == "1"
        assert sent["authorization"] == "Bearer x"
        assert all(name == name.lower() for name in sent)

    def test_chat_ui_gets_the_origin_and_the_referer_of_the_base_url(self) -> None:
        headers = a_request(H2o(base_url="http://localhost:3000/chat")).headers
        assert headers["origin"] == "http://localhost:3000"
        assert headers["referer"] == "http://localhost:3000/chat/"

    def test_olmo_gets_the_origin_and_the_referer_of_the_playground(self) -> None:
        headers = a_request(AllenAI(base_url="http://localhost:3000")).headers
        assert headers["origin"] == "https://playground.allenai.org"
        assert headers["referer"] == "https://playground.allenai.org/"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("", "x"), ("a b", "x"), ("a:", "x"), ("имя", "x"), ("Cookie", "x"), ("host", "x")),
            *(("Content-Type", "x"), ("Content-Length", "1"), ("Transfer-Encoding", "x"), ("Connection", "x")),
            *(("a", "the-value\r\nX: y"), ("a", "the-value\x00"), ("a", " the-value"), ("a", "the-value я")),
        ],
    )
    def test_a_header_that_cannot_be_sent_is_refused_and_its_value_not_quoted(self, name: str, value: str) -> None:
        with pytest.raises(ValueError, match="header") as caught:
            H2o(headers={name: value})
        assert "the-value" not in str(caught.value)

    def test_an_anonymous_id_is_not_minted_for_who_brings_an_identity(self, new_id: Any) -> None:
        assert AllenAI().mint(new_id) == {"user": "00000000-0000-4000-8000-000000000001"}
        assert AllenAI(headers={"authorization": "Bearer x"}).mint(new_id) == {}
        mine = AllenAI(headers={"X-Anonymous-User-ID": "me"})
        assert mine.mint(new_id) == {}
        assert a_request(mine).headers["x-anonymous-user-id"] == "me"


def cookie(name: str, value: str | None, domain: str, path: str = "/", *, secure: bool = False) -> Cookie:
    dotted = domain.startswith(".")
    return Cookie(0, name, value, None, False, domain, dotted, dotted, path, True, secure, None, True, None, None, {})


class TestCookies:
    def sent(self, base_url: str, *cookies: Cookie) -> str | None:
        jar = CookieJar()
        for item in cookies:
            jar.set_cookie(item)
        return a_request(OpenAssistant(base_url=base_url, cookies=jar)).headers.get("cookie")

    def test_a_mapping_is_sent_as_it_is(self) -> None:
        provider = OpenAssistant(cookies={"a": "1", "b": "x y=z,"})
        assert a_request(provider).headers["cookie"] == "a=1; b=x y=z,"

    @every
    def test_without_cookies_there_is_no_cookie_header(self, cls: Any) -> None:
        assert "cookie" not in a_request(cls()).headers

    @pytest.mark.parametrize(
        ("domain", "base_url", "fits"),
        [
            ("example.org", "https://example.org", True),
            ("example.org", "https://www.example.org", False),
            (".example.org", "https://www.example.org", True),
            (".example.org", "https://example.org", True),
            (".example.org", "https://notexample.org", False),
            ("www.example.org", "https://example.org", False),
            ("EXAMPLE.org", "https://example.ORG", True),
            ("localhost.local", "http://localhost:3000", True),
            (".other.org", "https://example.org", False),
        ],
    )
    def test_of_a_jar_those_of_the_host_are_taken(self, domain: str, base_url: str, fits: bool) -> None:
        assert self.sent(base_url, cookie("a", "1", domain)) == ("a=1" if fits else None)

    @pytest.mark.parametrize(
        ("path", "base_url", "fits"),
        [
            ("/", "https://h.org", True),
            ("/", "https://h.org/chat", True),
            ("/chat", "https://h.org/chat", True),
            ("/chat/", "https://h.org/chat", True),
            ("/chat", "https://h.org/chatter", False),
            ("/chat", "https://h.org", False),
        ],
    )
    def test_of_a_jar_those_of_the_path_are_taken(self, path: str, base_url: str, fits: bool) -> None:
        assert self.sent(base_url, cookie("a", "1", "h.org", path)) == ("a=1" if fits else None)

    def test_a_secure_cookie_goes_over_https_only(self) -> None:
        secret = cookie("a", "1", "h.org", secure=True)
        assert self.sent("https://h.org", secret) == "a=1"
        assert self.sent("http://h.org", secret) is None

    def test_of_two_with_a_name_the_one_with_the_longer_path_is_taken(self) -> None:
        two = [cookie("a", "long", "h.org", "/chat"), cookie("a", "short", "h.org", "/")]
        assert self.sent("https://h.org/chat", *two) == "a=long"
        assert self.sent("https://h.org/chat", *reversed(two)) == "a=long"

    def test_a_cookie_without_a_value_is_none(self) -> None:
        assert self.sent("https://h.org", cookie("a", None, "h.org")) is None

    def test_a_jar_is_read_once(self) -> None:
        jar = CookieJar()
        jar.set_cookie(cookie("a", "1", "h.org"))
        provider = OpenAssistant(base_url="https://h.org", cookies=jar)
        jar.clear()
        assert a_request(provider).headers["cookie"] == "a=1"
        assert provider == OpenAssistant(base_url="https://h.org", cookies={"a": "1"})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("", "x"),
            ("a b", "x"),
            ("a;", "x"),
            ("a=", "x"),
            ("a", "the-value;x"),
            ("a", "the-value\r\n"),
            ("a", "the-valueя"),
        ],
    )
    def test_a_cookie_that_cannot_be_sent_is_refused_and_its_value_not_quoted(self, name: str, value: str) -> None:
        with pytest.raises(ValueError, match="cookie") as caught:
            H2o(cookies={name: value})
        assert "the-value" not in str(caught.value)


class TestSecrets:
    def test_all_that_may_be_echoed_is_known_to_be_secret(self) -> None:
        provider = H2o(
            headers={"Authorization": "Bearer tok-123", "X-Auth-Token": "other-tok", "Accept-Language": "ru-RU"},
            cookies={"session": "my-session", "theme": "1"},
            proxy="http://me:p%40ss@proxy",
        )
        secrets = provider.secrets(Conversation(identity={"hf-chat": "minted-id"}))
        assert set(secrets) == {
            "Bearer tok-123",
            "tok-123",
            "other-tok",
            "my-session",
            "p@ss",
            "bWU6cEBzcw==",
            "minted-id",
        }

    def test_a_secret_inside_another_comes_after_it(self) -> None:
        secrets = H2o(cookies={"a": "abcd", "b": "abcdefgh", "c": "xxabcdefghxx"}).secrets(Conversation())
        assert secrets == ("xxabcdefghxx", "abcdefgh", "abcd")

    @every
    def test_the_minted_identity_is_secret(self, cls: Any, new_id: Any) -> None:
        identity = cls().mint(new_id)
        assert set(cls().secrets(Conversation(identity=identity))) == set(identity.values())

    def test_a_fingerprint_is_one_of_the_credentials_and_of_nothing_else(self) -> None:
        def of(identity: Any = (), **arguments: Any) -> str | None:
            return H2o(**arguments).credential(Conversation(id="1", identity=dict(identity)))

        mine = of(cookies={"a": "1"}, headers={"X-Api-Key": "k", "Accept-Language": "ru"})
        assert mine == of(model="falcon-7b", cookies={"a": "1"}, headers={"x-api-key": "k"})
        others = [of(cookies={"a": "1"}), of(cookies={"a": "2"}), of({"hf-chat": "1"}), of({"hf-chat": "2"}), None]
        assert len({mine, *others}) == 6
        assert of(headers={"Accept-Language": "ru"}) is None

    @every
    def test_only_who_speaks_as_the_creator_owns_a_conversation(self, cls: Any) -> None:
        mine = cls(cookies={"a": "1"})
        conversation = Conversation(id="1", credential=mine.credential(Conversation(id="1")))
        assert mine.owns(conversation)
        assert not cls(cookies={"a": "2"}).owns(conversation)
        assert not cls().owns(conversation)
        assert not cls().owns(Conversation(id="1"))

    @every
    def test_an_echoed_credential_is_whole_in_a_message_or_not_there(self, cls: Any) -> None:
        """Whoever shows the message blots it out, which works for whole ones only."""
        secret = "3f2b8c1e-secret-0123456789"
        for length in range(250, 320):
            body = b"x " * (length // 2) + b"session=" + secret.encode() + b" y" * 800
            message = cls().refusal(Response(status=500, body=body)).message
            assert secret in message or "3f2b" not in message
        for length in range(1150, 1210):
            message = cls().refusal(Response(status=500, body=b"<" + b" " * length + secret.encode())).message
            assert secret in message or "3f2b" not in message

    @every
    def test_a_code_is_a_word_and_no_credential(self, cls: Any) -> None:
        body = b'{"error": "x", "error_type": "3f2b8c1e-0000-4000-8000-000000000000"}'
        assert cls().refusal(Response(status=400, body=body)).code is None


class TestRefusals:
    @every
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            *((400, InvalidRequest), (401, AuthenticationError), (403, AuthenticationError), (405, InvalidRequest)),
            *((407, AuthenticationError), (413, InvalidRequest), (429, RateLimited), (500, ProviderError)),
            *((502, ProviderError), (503, Overloaded), (504, ProviderError), (302, ProviderError)),
        ],
    )
    def test_a_status_says_whose_fault_it_is(self, cls: Any, status: int, kind: type[ProviderError]) -> None:
        error = cls().refusal(Response(status=status, retry_after=7.5))
        assert type(error) is kind
        assert error.status == status
        assert error.retry_after == 7.5
        assert error.message

    @every
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"  Invalid request body \n", "Invalid request body"),
            (b"<html><head><TITLE lang=en>502 Bad\n Gateway</title></head>", "502 Bad Gateway"),
            (b"<html><title>cut in the mid", "HTTP status 418"),
            (b"<p>nothing", "HTTP status 418"),
            (b"", "HTTP status 418"),
            ("Ошибка: \x1b[31mнет\x00\u202e".encode(), "Ошибка: [31mнет"),
            (b"\xff\xfe", "\ufffd\ufffd"),
        ],
    )
    def test_a_body_that_is_no_json_is_quoted_as_one_printable_line(self, cls: Any, body: bytes, message: str) -> None:
        assert cls().refusal(Response(status=418, body=body)).message == message

    @every
    def test_a_long_text_is_cut_and_a_long_page_costs_no_time(self, cls: Any) -> None:
        for body in (b"word " * 200_000, b"<title" * 170_000, b"<title>" + b"a" * 1_000_000, b" " * 1_000_000 + b"x"):
            assert len(cls().refusal(Response(status=500, body=body)).message) <= 301

    @every
    @pytest.mark.parametrize(
        "body",
        [
            *(b"[]", b"null", b"5", b'"x"', b"{}", b'{"error": null}', b'{"error": {}}', b'{"error": []}'),
            *(b'{"message": 5}', b'{"message": [5, null, {}]}', b'{"message": [{"loc": 5, "msg": []}]}'),
            *(b'{"message": {"message": {"a": 1}}}', b'{"error": {"message": [1]}}', b'{"error": true}'),
            *(b'{"error": {"message": "m", "validation_errors": 5}}', b'{"error_type": [], "error": ["a", 5]}'),
            *(b'{"estimated_time": "x"}', b'{"estimated_time": -1}', b'{"error": ' + b"9" * 4000 + b"}"),
            *(b'{"estimated_time": ' + b"9" * 400 + b"}", b'{"message": ' + b"[" * 900 + b"]" * 900 + b"}"),
            *(b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}", b'{"error": ' + b"[" * 100_000, b'{"a": "\\ud800"}'),
        ],
    )
    def test_no_body_can_make_it_raise(self, cls: Any, body: bytes) -> None:
        limit = sys.getrecursionlimit()
        error = cls().refusal(Response(status=500, body=body))
        assert len(error.message) <= 301
        assert "\n" not in str(error)
        assert error.retry_after is None
        assert sys.getrecursionlimit() == limit

    @every
    def test_a_status_alone_says_what_to_look_at(self, cls: Any) -> None:
        said = {status: cls().refusal(Response(status=status)).message for status in (401, 407, 413, 429, 503)}
        assert said[401] == "the server does not know who is asking: credentials are missing or not accepted"
        assert said[407] == "the proxy wants credentials"
        assert said[413] == "the prompt is too large for the server"
        assert said[429] == "too many requests"
        assert said[503] == "the server has no capacity at the moment"

    @every
    @pytest.mark.parametrize(
        ("location", "where"),
        [
            ("https://sso.example/login?token=the-token", " to https://sso.example"),
            ("/login", ""),
            ("http://[", ""),
            ("https://me:the-password@sso.example/", ""),
            (None, ""),
        ],
    )
    def test_a_redirection_says_where_to_and_quotes_no_query(self, cls: Any, location: str | None, where: str) -> None:
        headers = () if location is None else (("location", location),)
        message = cls().refusal(Response(status=302, headers=headers)).message
        assert message == f"the server redirects{where}: check base_url, or who you are to it"

    @pytest.mark.parametrize(
        ("message", "code", "shown"),
        [
            ("no", None, "no (404)"),
            ("no", "bad_word", "no (404, bad_word)"),
            ("HTTP status 404", None, "HTTP status 404"),
            ("404 Not Found", "not_found", "404 Not Found (not_found)"),
            ("bad_word", "bad_word", "bad_word (404)"),
            ("at most 4048 tokens", None, "at most 4048 tokens (404)"),
            ("", None, "the service gave no reason (404)"),
        ],
    )
    def test_an_error_does_not_say_the_same_twice(self, message: str, code: str | None, shown: str) -> None:
        assert str(ProviderError(message, status=404, code=code)) == shown

    @pytest.mark.parametrize(
        ("body", "code", "message"),
        [
            (b'{"error": {"code": "no_room", "message": "There is none"}}', "no_room", "There is none"),
            (b'{"error": "Overloaded"}', None, "Overloaded"),
            (b'{"message": "Gone", "code": 5}', None, "Gone"),
            (b'{"detail": [{"msg": "no"}]}', None, "[{'msg': 'no'}]"),
            (b'{"other": "x"}', None, "HTTP status 418"),
            (b'{"error": {}}', None, "HTTP status 418"),
            (b"just text", None, "just text"),
        ],
    )
    def test_a_provider_that_says_nothing_of_its_errors_reads_the_usual_ones(
        self, body: bytes, code: str | None, message: str
    ) -> None:
        error = Plain().refusal(Response(status=418, body=body))
        assert (error.code, error.message) == (code, message)

    @pytest.mark.parametrize("before", ["x" * 290 + " ", " " * 1190])
    def test_what_may_be_a_credential_is_not_cut_in_its_middle(self, before: str) -> None:
        """Whole it would be blotted out; neither letters nor white space before it make it half of one."""
        assert shortened(f"{before}the-very-long-api-key and more").rstrip() in (f"{before.strip()}…", "…")

    def test_what_cannot_be_written_is_three_dots(self) -> None:
        nested: Any = "x"
        for _ in range(100_000):
            nested = [nested]
        assert shortened(nested) == shortened(10**5000) == "…"


class Plain(Provider):
    """A provider that overrides nothing."""

    name = "plain"
    label = "Plain"
    url = default_base_url = "https://plain.example"
    default_model = "m"
    models = ("m",)

    def ask(self, conversation: Any, messages: Any, options: Any, new_id: Any) -> Any: ...


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class Keyed(Plain):
    """Its credential is a field of its own."""

    api_key: str = ""
    region: str = "eu"


class TestKeys:
    def test_a_key_in_a_field_of_its_own_is_a_credential_as_one_in_a_header_is(self) -> None:
        mine, other, none = Keyed(api_key="my-own-key"), Keyed(api_key="another-key"), Keyed()
        conversation = Conversation(id="1", identity={"thread": "minted"})
        created = conversation.replace(credential=mine.credential(conversation))
        assert mine.owns(created)
        assert not other.owns(created)
        assert not none.owns(created)
        assert len({mine.access(), other.access(), none.access()}) == 3
        assert none.access() is None
        assert set(mine.secrets(conversation)) == {"my-own-key", "minted"}

    def test_another_field_of_its_own_is_none(self) -> None:
        assert Keyed(api_key="k", region="us").access() == Keyed(api_key="k").access()
        assert H2o(prompt_style="instruction", share_with_model_authors=True, cookie_name="c").access() is None


class TestGone:
    @pytest.mark.parametrize("status", [200, 403, 404, 410, 500])
    def test_only_a_404_to_who_created_it_is_gone(self, status: int) -> None:
        mine = Plain(cookies={"a": "1"})
        conversation = Conversation(id="1", credential=mine.credential(Conversation(id="1")))
        response = Response(status=status)
        assert mine.gone(conversation, response) == (status == 404)
        for other in (Plain(cookies={"a": "2"}), Plain()):
            assert not other.gone(conversation, response)

    @pytest.mark.parametrize(
        "body", [b"404 page not found\n", b"default backend - 404", b"<html>404</html>", b" <!doctype"]
    )
    def test_a_404_of_a_gateway_s_own_is_not(self, body: bytes) -> None:
        provider = Plain(cookies={"a": "1"})
        conversation = Conversation(id="1", credential=provider.credential(Conversation(id="1")))
        assert not provider.gone(conversation, Response(status=404, body=body))
        for said in (b"", b"\n", b"Not found", b"{}", b'{"message":"no"}', b"null\n", b'"no"', b'{"message":"cut'):
            assert provider.gone(conversation, Response(status=404, body=said))

    def test_unless_a_404_cannot_mean_anything_else(self) -> None:
        class Honest(Plain):
            not_found_is_gone = True

        assert Honest().gone(Conversation(id="1"), Response(status=404))
        assert not Honest().gone(Conversation(id="1"), Response(status=500))


class TestIds:
    def test_an_id_is_read_from_where_it_stands(self) -> None:
        assert Response(status=200, body=b'{"id": "a b", "chat": "c"}').id() == "a b"
        assert Response(status=200, body=b'{"id": "a", "chat": "c"}').id("chat") == "c"

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"{}", b'{"id": 5}', b'{"id": ""}', b'{"id": "."}', b'{"id": ".."}', b"<html>"]
    )
    def test_what_is_no_id_breaks_the_protocol(self, body: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            Response(status=200, body=body).id()
        with pytest.raises(RemoteProtocolError):
            Response(status=200, body=b'{"id": "%s"}' % (b"x" * 129)).id()


class Toy(H2o):
    name = "toy"


class TestRegistry:
    def test_ours_are_found_by_name(self) -> None:
        assert dict(PROVIDERS) == {cls.name: cls for cls in ALL}
        assert len(PROVIDERS) == 3
        assert "h2o" in PROVIDERS
        assert "toy" not in PROVIDERS
        assert repr(PROVIDERS) == "<providers: h2o, openassistant, allenai>"

    def test_an_installed_package_brings_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded: list[str] = []

        class Entry(importlib.metadata.EntryPoint):
            def load(self) -> Any:
                loaded.append(self.name)
                return {"toy": Toy, "h2o": Toy, "broken": 5, "game": Toy}[self.name]

        def entry_points(*, group: str) -> list[Entry]:
            assert group == "trioprov.providers"
            return [Entry(name, "m:x", group) for name in ("toy", "h2o", "broken", "game")]

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
        registry = trioprov.providers.Registry(*ALL)
        assert [*registry] == ["h2o", "openassistant", "allenai", "toy", "broken", "game"]
        assert registry.ours == ("h2o", "openassistant", "allenai")
        assert loaded == []
        assert registry["h2o"] is H2o
        assert registry["toy"] is registry["toy"] is Toy
        assert loaded == ["toy"]
        with pytest.raises(TypeError, match="broken"):
            _ = registry["broken"]
        with pytest.raises(TypeError, match=r"'game' of trioprov\.providers brings 'toy', and must have its name"):
            _ = registry["game"]
        with pytest.raises(KeyError):
            _ = registry["nobody"]
