"""check_provider passes our providers and good ones of others; each duty that is broken on purpose is told by name."""

# The classes here derive from one that is loaded when the tests run, and break what its types say.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportPrivateUsage=false, reportArgumentType=false

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from trioprov import AllenAI, Finish, H2o, InvalidRequest, Notice, OpenAssistant, ProviderError, TrioprovError
from trioprov.providers import Decoder, Provider, Request, Response, Stream
from trioprov.testing import check_provider
from trioprov.wire import SSEDecoder

PACKAGE = Path(__file__).parent.parent / "outside" / "package" / "elsewhere.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("elsewhere_checked", PACKAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import would: annotations are resolved, and classes pickled, by it
    spec.loader.exec_module(module)
    return module


elsewhere: Any = load()
Brook, Puff = elsewhere.Brook, elsewhere.Puff

STREAM = (
    b'event: piece\ndata: {"text": "Hi"}\n\nevent: piece\ndata: {"text": " there"}\n\n: ping\n\n'
    b'event: end\ndata: {"why": "length", "tokens": 2}\n\n'
)
ANSWER = {"room": "r-1"}
PUFF = b'{"token": "Hi"}\n{"token": " there"}\r\n{"done": true}\n'
TGI = (
    b'data:{"token":{"id":1,"text":"Hi","logprob":-0.1,"special":false},"generated_text":null,"details":null}\n\n:\n\n'
    b'data: {"token":{"id":11,"text":"<|endoftext|>","logprob":0,"special":true},"generated_text":"Hi",'
    b'"details":{"finish_reason":"eos_token","generated_tokens":2,"seed":null}}\n\n'
)
OASST = (
    b'data: {"event_type": "pending", "queue_position": 1, "queue_size": 2}\r\n\r\n: ping\r\n\r\n'
    b'data: {"event_type": "token", "text": "Hi"}\r\n\r\n'
    b'data: {"event_type": "message", "message": {"id": "m", "state": "complete", "content": "Hi"}}\r\n\r\n'
)


def tree(final: bool) -> bytes:
    leaf = {
        "id": "msg_C",
        "role": "assistant",
        "content": "Hi" if final else "",
        "finish_reason": None,
        "children": None,
    }
    top = {"id": "msg_A", "role": "user", "root": "msg_A", "final": final, "children": [leaf]}
    return json.dumps(top).encode() + b"\n"


OLMO = tree(False) + b'{"message": "msg_C", "content": "Hi", "logprobs": []}\n' + tree(True)


@pytest.mark.parametrize(
    ("cls", "given"),
    [
        (H2o, {}),
        (OpenAssistant, {}),
        (AllenAI, {}),
        (H2o, {"streams": [TGI], "answer": {"conversationId": "6495a0"}, "prompt_style": "instruction"}),
        (OpenAssistant, {"streams": [OASST], "cookies": {"next-auth.session-token": "my-login-cookie"}}),
        (AllenAI, {"streams": [OLMO], "host": "modal"}),
        (Brook, {"streams": [STREAM], "answer": ANSWER}),
        (Puff, {"streams": [PUFF]}),
    ],
)
def test_a_provider_that_does_its_duties_passes(cls: type[Provider], given: dict[str, Any]) -> None:
    check_provider(cls, **given)


# -- Broken on purpose -------------------------------------------------------------------------------------------------

MUTANTS: dict[str, tuple[type[Any], str]] = {}


def breaks(duty: str) -> Callable[[type[Any]], type[Any]]:
    """Note a class that breaks a duty, by what stands in the complaint."""

    def note(cls: type[Any]) -> type[Any]:
        MUTANTS[cls.__name__] = cls, duty
        return cls

    return note


def without(name: str) -> Any:
    """A class like Brook that never had one of its attributes."""
    body = {key: value for key, value in vars(Brook).items() if key not in (name, "__dict__", "__weakref__")}
    return type("Lacking", (Provider,), body)


def answered(self: Any, conversation: Any, method: str, path: str, **more: Any) -> Any:
    """One request that succeeds, or its refusal."""
    response = yield self.request(conversation, method, path, **more)
    if not response.ok:
        raise self.refusal(response)
    return response


# The shape.

breaks("default_model is None")(type("NoDefaultModel", (without("default_model"),), {}))
breaks("ask is not implemented")(type("NoAsk", (without("ask"),), {}))
breaks("name is 'My Brook'")(type("OddName", (Brook,), {"name": "My Brook"}))
breaks("default_base_url is 'brook.example'")(type("NoScheme", (Brook,), {"default_base_url": "brook.example"}))
breaks("one that no provider of trioprov has")(type("Taken", (Brook,), {"name": "h2o"}))
breaks("parameter_rules['temperature'] is (0, 2)")(
    type("NoRules", (Brook,), {"parameter_rules": {"temperature": (0, 2)}})
)
breaks("models is ['brook-1']")(type("ListOfModels", (Brook,), {"models": ["brook-1"]}))
breaks("each of them once")(type("TwiceTheSame", (Brook,), {"models": ("brook-1", "brook-1")}))
breaks("working is 'no'")(type("Working", (Brook,), {"working": "no"}))
breaks("parameter_rules['limit'] is <class 'int'>")(
    type("TypesForRules", (Brook,), {"parameter_rules": {"limit": int}})
)
breaks("one_pending_per_account is 'yes'")(type("Pending", (Brook,), {"one_pending_per_account": "yes"}))
breaks("needs_auth is None")(type("Auth", (Brook,), {"needs_auth": None}))
breaks("expires_after is 0")(type("Expires", (Brook,), {"expires_after": 0}))
breaks("model_aliases is ()")(type("Aliases", (Brook,), {"model_aliases": ()}))


@breaks("ask is an async function")
class AsyncAsk(Brook):
    async def ask(self, *args: Any) -> Any:
        return None


@breaks("close is an async function")
class AsyncClose(Brook):
    async def close(self, *args: Any) -> Any:
        yield None


@breaks("mint is a generator function")
class GeneratorMint(Brook):
    def mint(self, new_id: Any) -> Any:
        yield new_id()


@breaks("close returned 'nothing_owed'")
class CloseWithoutYield(Brook):
    def close(self, conversation: Any) -> Any:
        return "nothing_owed"


@breaks("mint returned {'owner': 5}")
class MintsNumbers(Brook):
    def mint(self, new_id: Any) -> Any:
        return {"owner": 5}


@breaks("open yielded {'path': '/rooms'}")
class NoRequest(Brook):
    def open(self, conversation: Any, new_id: Any) -> Any:
        response = yield {"path": "/rooms"}
        return conversation.replace(id=response.id("room"))


@breaks("keyword-only")
@dataclasses.dataclass(frozen=True, repr=False)
class Positional(Brook):
    more: str = ""


@breaks("check_provider(…, field=value)")
@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class NeedsMore(Brook):
    more: str


@breaks("a ClassVar")
@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class NameIsAField(Brook):
    name: str = "brook"


# The value.

breaks("model='latest' became")(type("ForgetsAliases", (Brook,), {"__post_init__": lambda self: None}))
breaks("the alias 'latest' means 'brook-3'")(type("LooseAlias", (Brook,), {"model_aliases": {"latest": "brook-3"}}))
breaks("it has: brook-1, brook-2")(type("OtherDefault", (Brook,), {"default_model": "brook-0"}))
breaks("default_base_url is 'https://API.brook.example/'")(
    type("WrittenOtherwise", (Brook,), {"default_base_url": "https://API.brook.example/"})
)
breaks("unknown model became")(type("AnyModel", (Brook,), {"_resolved": lambda self, model, url: model or "brook-1"}))
breaks("hashes do")(type("ById", (Brook,), {"__eq__": object.__eq__, "__hash__": object.__hash__}))
breaks("makes no difference")(type("AllTheSame", (Brook,), {"__eq__": lambda a, b: True, "__hash__": lambda a: 1}))
breaks("can be set")(type("Open", (Brook,), {"__setattr__": object.__setattr__}))
breaks("a copy of")(type("BadCopy", (Brook,), {"__copy__": lambda self: type(self)()}))


@breaks("it shows 'password-3d4e5f")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TellsAll(Brook):
    pass


@breaks("a change of the caller's dictionary")
class SharesHeaders(Brook):
    def __post_init__(self) -> None:
        given = self.headers
        super().__post_init__()
        object.__setattr__(self, "headers", given)

    def __hash__(self) -> int:
        return 1


@breaks("the error for proxy quotes it")
class QuotesProxy(Brook):
    def __post_init__(self) -> None:
        if self.proxy and "://" not in self.proxy:
            raise ValueError(f"not a proxy: {self.proxy}")
        super().__post_init__()


@breaks("it took {'headers'")
class TakesAnything(Brook):
    def __post_init__(self) -> None:
        given = self.headers
        object.__setattr__(self, "headers", {})
        super().__post_init__()
        object.__setattr__(self, "headers", dict(given))

    def __hash__(self) -> int:
        return 1


@breaks("secrets() does not hold")
class NoSecrets(Brook):
    def secrets(self, conversation: Any) -> tuple[str, ...]:
        return ()


class WithKey(Brook):
    def request_headers(self, conversation: Any) -> Any:
        return {**super().request_headers(conversation), "x-api-key": "key-1f2e3d4c"}


@breaks("with x-api-key, and secrets() does not hold it")
class UnknownKey(WithKey):
    def access(self) -> str:
        return "the key's fingerprint"


@breaks("with x-api-key, and access() or credential() is None")
class KeyOfNobody(WithKey):
    def secrets(self, conversation: Any) -> tuple[str, ...]:
        return (*super().secrets(conversation), "key-1f2e3d4c")


@breaks("credential() or access() is None")
class NoCredential(Brook):
    def access(self) -> None:
        return None


@breaks("it owns a conversation with another credential")
class OwnsAll(Brook):
    def owns(self, conversation: Any) -> bool:
        return True


@breaks("a new one is")
class NewWithId(Brook):
    def new_conversation(self) -> Any:
        return super().new_conversation().replace(id="1")


@breaks("it holds 'cookie-5f2e1c77'")
class KeepsCookies(Brook):
    def open(self, conversation: Any, new_id: Any) -> Any:
        conversation = yield from super().open(conversation, new_id)
        return conversation.replace(cookies=dict(self.cookies))


@breaks("lists, dicts, strings and numbers alone")
class KeepsTuples(Brook):
    def open(self, conversation: Any, new_id: Any) -> Any:
        conversation = yield from super().open(conversation, new_id)
        return conversation.replace(seen=(1, 2))


@breaks("two identities are")
class OneOwner(Brook):
    def mint(self, new_id: Any) -> Any:
        return {"owner": "everybody"}


@breaks("it mints another identity")
class RandomOwner(Brook):
    def mint(self, new_id: Any) -> Any:
        return {"owner": str(random.random())}


# Parameters and prompts.

breaks("stream is in supported_parameters, and refused")(
    type("DocumentsOurs", (Brook,), {"supported_parameters": ("stream",)})
)
breaks("limit may be anything")(type("Unchecked", (Brook,), {"parameter_rules": {}}))


def options(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """A body with options that are changed at the end."""
    return {"options": lambda self, given: change(dict(Brook.options(self, given)))}


breaks("some_new_knob=0 became")(type("DropsZero", (Brook,), options(lambda all: {k: v for k, v in all.items() if v})))
breaks("temperature=None became")(type("KeepsNone", (Brook,), options(lambda all: {"temperature": None, **all})))
breaks("the defaults are not in")(type("ForgetsDefaults", (Brook,), options(lambda all: {**all, "temperature": 1})))
breaks("the later stronger")(type("Weak", (Brook,), {"options": lambda self, _: Brook.options(self, {})}))
breaks("tone='x' became")(
    type(
        "FieldSlips",
        (Brook,),
        {
            "options": lambda self, given: {
                **Brook.options(self, {k: v for k, v in given.items() if k != "tone"}),
                **given,
            }
        },
    )
)
breaks("some_new_knob=nan became")(
    type("Sloppy", (Brook,), {"options": lambda self, given: {"temperature": 0.5, **self.parameters, **given}})
)
breaks("the prompt of '' is")(
    type("SendsNothing", (Brook,), {"prompt": lambda self, conversation, messages: messages[-1].content})
)


@breaks("the caller's list has become")
class Pops(Brook):
    def prompt(self, conversation: Any, messages: Any) -> str:
        found = super().prompt(conversation, messages)
        if isinstance(messages, list):
            messages.pop()
        return found


@breaks("a list that ends with an answer became")
class AlwaysAll(Brook):
    def prompt(self, conversation: Any, messages: Any) -> str:
        return super().prompt(conversation.replace(started=None), messages)


# Flows.


@breaks("check_provider(…, answer={…})")
class OtherAnswer(Brook):
    def open(self, conversation: Any, new_id: Any) -> Any:
        response = yield from answered(self, conversation, "POST", "/rooms", creates=True)
        return conversation.replace(id=response.id("some_other_name"))


@breaks("ask returned")
class NoStream(Brook):
    def ask(self, conversation: Any, messages: Any, options: Any, new_id: Any) -> Any:
        return "the answer"
        yield


@breaks("a path from the first slash")
class WholeUrl(Brook):
    def ask(self, conversation: Any, messages: Any, options: Any, new_id: Any) -> Any:
        stream = yield from super().ask(conversation, messages, options, new_id)
        return Stream(dataclasses.replace(stream.request, path=f"{self.base_url}/turns"), stream.decoder)


@breaks("with several bodies")
class TwoBodies(Brook):
    def request(self, *args: Any, **given: Any) -> Request:
        return dataclasses.replace(super().request(*args, **given), json={}, form={})


@breaks("a method in upper case")
class LowerCase(Brook):
    def request(self, conversation: Any, method: str, path: str, **given: Any) -> Request:
        return super().request(conversation, method.lower(), path, **given)


@breaks("the user's cookies")
class ForgetsCookies(Brook):
    def request_headers(self, conversation: Any) -> Any:
        return {"x-brook-owner": conversation.identity.get("owner", "")}


@breaks("the user's headers")
class OwnHeaders(Brook):
    def request(self, *args: Any, **given: Any) -> Request:
        request = super().request(*args, **given)
        return dataclasses.replace(request, headers={**request.headers, "user-agent": "trioprov/mine"})


@breaks("names in lower case")
class BigHeaders(Brook):
    def request_headers(self, conversation: Any) -> Any:
        return {**super().request_headers(conversation), "X-Big": "1"}


@breaks("x-brook-owner: None")
class NoneForNothing(Brook):
    def request_headers(self, conversation: Any) -> Any:
        return {**super().request_headers(conversation), "x-brook-owner": conversation.get("owner")}


@breaks("ASCII in one line")
class AnyHeader(Brook):
    def request_headers(self, conversation: Any) -> Any:
        return {**super().request_headers(conversation), "x-brook-tone": "спокойно"}


@breaks("JSON values alone")
class AnyBody(Brook):
    def ask(self, conversation: Any, messages: Any, options: Any, new_id: Any) -> Any:
        return (yield from super().ask(conversation, messages, {**options, "tones": {"calm"}}, new_id))


@breaks("open gives an id and asks nobody")
class IdOutOfThinAir(Brook):
    def open(self, conversation: Any, new_id: Any) -> Any:
        return conversation.replace(id=new_id())
        yield


@breaks("has become")
class ChangesInPlace(Brook):
    def open(self, conversation: Any, new_id: Any) -> Any:
        found = yield from super().open(conversation, new_id)
        conversation["id"] = found.id
        return conversation


@breaks("credentials in headers or cookies alone")
class KeyInPath(Brook):
    def request(self, conversation: Any, method: str, path: str, **given: Any) -> Request:
        return super().request(conversation, method, f"{path}/{self.cookies.get('session', '')}", **given)


@breaks("then")
class Chance(Brook):
    def ask(self, conversation: Any, messages: Any, options: Any, new_id: Any) -> Any:
        return (yield from super().ask(conversation, messages, {**options, "seed": random.random()}, new_id))


@breaks("creates=True on the one that creates")
class CreatesInSecret(Brook):
    def request(self, *args: Any, **given: Any) -> Request:
        return super().request(*args, **{**given, "creates": False})


@breaks("open made")
class IgnoresStatus(Brook):
    def open(self, conversation: Any, new_id: Any) -> Any:
        yield self.request(conversation, "POST", "/rooms", creates=True)
        return conversation.replace(id="r-1")


@breaks("of a broken connection")
class IgnoresTheNetwork(Brook):
    def open(self, conversation: Any, new_id: Any) -> Any:
        try:
            return (yield from super().open(conversation, new_id))
        except ProviderError:
            raise
        except TrioprovError:
            return conversation.replace(id="r-1")


@breaks("TypeError: 'NoneType' object is not subscriptable")
class TrustsTheBody(Brook):
    def open(self, conversation: Any, new_id: Any) -> Any:
        response = yield from answered(self, conversation, "POST", "/rooms", creates=True)
        return conversation.replace(id=response.json()["room"])


@breaks("a ProviderError with status=")
class NoStatus(Brook):
    def refusal(self, response: Response) -> ProviderError:
        return ProviderError("no")


@breaks("AuthenticationError")
class AllTheSameError(Brook):
    def refusal(self, response: Response) -> ProviderError:
        return InvalidRequest("no", status=response.status, retry_after=response.retry_after)


@breaks("its retry_after is None")
class ForgetsToWait(Brook):
    def refusal(self, response: Response) -> ProviderError:
        error = super().refusal(response)
        error.retry_after = None
        return error


@breaks("one line of a length to be read")
class Chatty(Brook):
    def refusal(self, response: Response) -> ProviderError:
        error = super().refusal(response)
        error.message = response.body.decode("utf-8", "replace")
        return error


@breaks("was cut in its middle")
class CutsAnywhere(Brook):
    def reason(self, response: Response) -> tuple[None, str]:
        return None, response.body.decode("utf-8", "replace").replace("\n", " ")[:300]


@breaks("with the id '.', close")
class TakesAnyId(Brook):
    def open(self, conversation: Any, new_id: Any) -> Any:
        response = yield from answered(self, conversation, "POST", "/rooms", creates=True)
        try:
            return conversation.replace(id=str(response.json()["room"]))
        except (KeyError, TypeError):
            raise TrioprovError from None


@breaks("with the id 'a/../b'")
class Unquoted(Brook):
    def close(self, conversation: Any) -> Any:
        if conversation.id is None:
            return "nothing_owed"
        yield from answered(self, conversation, "DELETE", f"/rooms/{conversation.id}")
        return "deleted"


@breaks("went on after step")
class DeletesInFinally(Brook):
    def ask(self, conversation: Any, messages: Any, options: Any, new_id: Any) -> Any:
        try:
            yield from answered(self, conversation, "POST", "/ready")
            return (yield from super().ask(conversation, messages, options, new_id))
        finally:
            yield self.request(conversation, "DELETE", "/ready")


# Streams.


class Loose(Decoder):
    """A decoder that each of the next ones lets go in one place."""

    def __init__(self, conversation: Any) -> None:
        super().__init__(conversation)
        self.events_in = SSEDecoder()

    def decode(self, data: bytes, events: list[Any]) -> None:
        for event in self.events_in.receive_data(data):
            if self.take(event, events):
                return

    def take(self, event: Any, events: list[Any]) -> bool:
        said = elsewhere._said(event.data)
        if event.event == "piece" and said.get("text"):
            events.append(said["text"])
        if event.event == "end":
            events.append(Finish("stop"))
        return event.event == "end"


def decoding(decoder: type[Decoder]) -> type[Any]:
    def ask(self: Any, conversation: Any, messages: Any, options: Any, new_id: Any) -> Iterator[Any]:
        stream = yield from Brook.ask(self, conversation, messages, options, new_id)
        return Stream(stream.request, decoder(conversation))

    return type(decoder.__name__, (Brook,), {"ask": ask})


def bad_decoder(duty: str) -> Callable[[type[Decoder]], type[Decoder]]:
    def note(cls: type[Decoder]) -> type[Decoder]:
        breaks(duty)(decoding(cls))
        return cls

    return note


@bad_decoder("raised KeyError")
class TrustsEvents(Loose):
    def take(self, event: Any, events: list[Any]) -> bool:
        if event.event == "piece":
            events.append(elsewhere._said(event.data)["text"] or "x")
            return False
        return super().take(event, events)


@bad_decoder("raised JSONDecodeError")
class StandardJson(Loose):
    def take(self, event: Any, events: list[Any]) -> bool:
        json.loads(event.data)
        return super().take(event, events)


@bad_decoder("one Finish, at the end")
class GoesOn(Loose):
    def take(self, event: Any, events: list[Any]) -> bool:
        super().take(event, events)
        return False


@bad_decoder("gave an empty token")
class EmptyTokens(Loose):
    def take(self, event: Any, events: list[Any]) -> bool:
        events.append("")
        return super().take(event, events)


@bad_decoder("a token, Queued, Notice or Finish")
class OddEvents(Loose):
    def take(self, event: Any, events: list[Any]) -> bool:
        events.append(5)
        return super().take(event, events)


@bad_decoder("an error with the reason 'error'")
class Interrupted(Loose):
    def take(self, event: Any, events: list[Any]) -> bool:
        events.append(Finish("interrupted"))
        return True


@bad_decoder("decode returned <generator object")
class Yields(Loose):
    def decode(self, data: bytes, events: list[Any]) -> Any:
        yield "Hi"


@bad_decoder("decode returned ['Hi'")
class Returns(Loose):
    def decode(self, data: bytes, events: list[Any]) -> Any:
        found: list[Any] = []
        super().decode(data, found)
        return found


@bad_decoder("one of stop, length")
class OddReason(Loose):
    def take(self, event: Any, events: list[Any]) -> bool:
        events.append(Finish("done"))  # pyright: ignore[reportArgumentType]
        return True


@bad_decoder("an exception")
class SaysItsError(Loose):
    def take(self, event: Any, events: list[Any]) -> bool:
        events.append(Finish("error", "it failed"))  # pyright: ignore[reportArgumentType]
        return True


@bad_decoder("has become")
class WritesIntoIt(Loose):
    def take(self, event: Any, events: list[Any]) -> bool:
        self.conversation["seen"] = True
        return super().take(event, events)


@bad_decoder("more events after the Finish")
class NeverFinished(Loose):
    def receive_data(self, data: bytes) -> list[Any]:
        self.finished = False
        return super().receive_data(data)


@bad_decoder("its conversation has become")
class LosesConversation(Loose):
    def decode(self, data: bytes, events: list[Any]) -> None:
        self.conversation = {}
        super().decode(data, events)


@bad_decoder("byte by byte")
class ChunksAreLines(Loose):
    def decode(self, data: bytes, events: list[Any]) -> None:
        self.events_in = SSEDecoder()
        super().decode(data, events)


@bad_decoder("byte by byte")
class CountsChunks(Loose):
    def decode(self, data: bytes, events: list[Any]) -> None:
        events.append(Notice("chunk", str(len(data))))
        super().decode(data, events)


@bad_decoder("a stream without a byte gave")
class EndIsEnough(Loose):
    def decode_eof(self, events: list[Any]) -> None:
        events.append(Finish("stop"))


@bad_decoder("it is not all")
class AnyTextWillDo(Loose):
    heard = False

    def take(self, event: Any, events: list[Any]) -> bool:
        self.heard = True
        return super().take(event, events)

    def decode_eof(self, events: list[Any]) -> None:
        if self.heard:
            events.append(Finish("stop"))


@bad_decoder("a recorded stream gave error")
class NeverContent(Loose):
    def take(self, event: Any, events: list[Any]) -> bool:
        return False


@bad_decoder("of 16 MiB without a line's end")
class Hoards(Loose):
    rest = b""

    def decode(self, data: bytes, events: list[Any]) -> None:
        self.rest += data
        while (at := self.rest.find(b"\n")) >= 0:
            line, self.rest = self.rest[: at + 1], self.rest[at + 1 :]
            super().decode(line, events)
            if events and isinstance(events[-1], Finish):
                return


@breaks("after_stream returned []")
class SilentEnd(Brook):
    def after_stream(self, decoder: Decoder) -> Any:
        return []
        yield


# The cleanup.


@breaks("no request, 'nothing_owed'")
class DeletesNothing(Brook):
    def close(self, conversation: Any) -> Any:
        yield from answered(self, conversation, "DELETE", elsewhere._room(conversation))
        return "deleted"


@breaks("a request and 'deleted'; or cleanup_documented = False")
class ClaimsTooMuch(Brook):
    def close(self, conversation: Any) -> Any:
        return "nothing_owed" if conversation.id is None else "unsupported"
        yield


breaks("no request, 'unsupported'; or cleanup_documented = True")(
    type("ClaimsTooLittle", (Brook,), {"cleanup_documented": False})
)


@breaks("close does not end when every answer is a 503")
class TriesForEver(Brook):
    def close(self, conversation: Any) -> Any:
        while conversation.id is not None:
            response = yield self.request(conversation, "DELETE", elsewhere._room(conversation))
            if response.status != 503:
                break
        return (yield from super().close(conversation))


@breaks("one of deleted")
class OddOutcome(Brook):
    def close(self, conversation: Any) -> Any:
        outcome = yield from super().close(conversation)
        return "gone" if outcome == "already_gone" else outcome


@breaks("stop returned None")
class StopsWithNothing(Brook):
    def stop(self, conversation: Any) -> Any:
        return None
        yield


@breaks("a 400 became 'deleted'")
class NeverLooks(Brook):
    def close(self, conversation: Any) -> Any:
        if conversation.id is None:
            return "nothing_owed"
        yield self.request(conversation, "DELETE", elsewhere._room(conversation))
        return "deleted"


@breaks("it is tried again")
class GivesUp(Brook):
    def close(self, conversation: Any) -> Any:
        try:
            return (yield from super().close(conversation))
        except ProviderError as exc:
            raise InvalidRequest("no", status=400) from exc


@breaks("a broken connection became 'already_gone'")
class BrokenIsGone(Brook):
    def close(self, conversation: Any) -> Any:
        try:
            return (yield from super().close(conversation))
        except ProviderError:
            raise
        except TrioprovError:
            return "already_gone"


@breaks("if self.gone(conversation, response)")
class NotFoundIsGone(Brook):
    def gone(self, conversation: Any, response: Response) -> bool:
        return response.status == 404


@breaks("unless the request names what mint() made")
class Guesses(Brook):
    def recover(self, conversation: Any) -> Any:
        request = self.request(conversation.replace(identity=None), "DELETE", "/rooms/newest")
        response = yield request
        if not response.ok:
            raise self.refusal(response)
        return "deleted"


@breaks("recover says 'deleted' without asking")
class Claims(Brook):
    def recover(self, conversation: Any) -> Any:
        return "deleted"
        yield


@breaks("and later")
class NeedsItsModel(Brook):
    def close(self, conversation: Any) -> Any:
        if conversation.id is None:
            return "nothing_owed"
        yield from answered(self, conversation, "DELETE", elsewhere._room(conversation), query={"model": self.model})
        return "deleted"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_duty_is_told(name: str) -> None:
    cls, duty = MUTANTS[name]
    with pytest.raises(AssertionError) as caught:
        check_provider(cls, streams=[STREAM], answer=ANSWER)
    told = str(caught.value)
    assert told.startswith(f"{name} fails as a provider:\n")
    assert duty in told


def test_what_is_no_provider_class_is_told() -> None:
    with pytest.raises(AssertionError, match="object"):
        check_provider(type("Stranger", (), {}))
    with pytest.raises(TypeError, match="wants a class"):
        check_provider(H2o())
    with pytest.raises(TypeError, match="list of bytes"):
        check_provider(H2o, streams=b"data: ")
    with pytest.raises(TypeError, match="not empty"):
        check_provider(H2o, streams=[b""])


def test_all_that_is_wrong_is_told_at_once_each_with_what_is_wanted() -> None:
    class Worse(OddOutcome, ForgetsCookies):
        pass

    with pytest.raises(AssertionError) as caught:
        check_provider(Worse, answer=ANSWER)
    told = str(caught.value)
    assert "one of deleted" in told
    assert "the user's cookies" in told
    assert told.count("seen:") == told.count("wanted:") > 1


def test_an_exception_of_the_authors_is_told_with_its_place() -> None:
    with pytest.raises(AssertionError, match=rf"not subscriptable \(in open, .*{Path(__file__).name}:\d+\)"):
        check_provider(TrustsTheBody, answer=ANSWER)


def test_an_exception_out_of_a_dataclass_is_told_with_the_author_s_line() -> None:
    class NoSlash(Brook):
        def open(self, conversation: Any, new_id: Any) -> Any:
            yield self.request(conversation, "POST", "rooms", creates=True)

    with pytest.raises(AssertionError, match=rf"not 'rooms' \(in open, .*{Path(__file__).name}:\d+\)"):
        check_provider(NoSlash, answer=ANSWER)
