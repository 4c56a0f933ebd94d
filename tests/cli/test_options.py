"""What may be typed, and what is said about the rest."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trioprov import H2o, OpenAssistant
from trioprov.cli import main
from trioprov.cli._options import Question, question
from trioprov.cli._parser import build
from trioprov.cli._usage import UsageError

SECRET = "do-not-show-this"


def asked(*arguments: str) -> Question:
    return question(build().parse_args(["ask", *arguments]))


def refused(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        asked(*arguments)
    return str(caught.value)


def names(*arguments: str) -> list[str]:
    return [provider.name for provider in asked("hi", *arguments).providers]


def test_emulated_asks_everybody() -> None:
    assert names("--emulated") == ["h2o", "openassistant", "allenai"]


def test_without_names_only_services_that_can_answer_are_asked_and_the_others_are_told() -> None:
    it = asked("hi")
    assert [provider.name for provider in it.providers] == ["allenai"]
    assert it.unasked == {
        "h2o": "its public service has closed",
        "openassistant": "its public service has closed",
    }


def test_a_named_base_url_chooses_its_provider_so_that_the_prompt_goes_nowhere_else() -> None:
    it = asked("hi", "--base-url", "h2o=http://localhost:3000")
    assert [(provider.name, provider.base_url) for provider in it.providers] == [("h2o", "http://localhost:3000")]


def test_one_provider_may_be_asked_twice() -> None:
    assert names("-p", "h2o", "-p", "h2o") == ["h2o", "h2o"]


def test_a_value_without_a_name_is_the_only_providers() -> None:
    (h2o,) = asked("hi", "-p", "h2o", "--model", "falcon-7b", "--base-url", "http://x:1").providers
    assert h2o == H2o("falcon-7b", base_url="http://x:1")


def test_a_provider_asked_twice_takes_one_model_for_both_or_two_in_order() -> None:
    two = ["-p", "h2o", "-p", "h2o"]
    both = asked("hi", *two, "--model", "falcon-7b").providers
    assert [provider.model for provider in both] == [H2o("falcon-7b").model] * 2
    each = asked("hi", *two, "--model", "falcon-7b", "--model", "h2o=llama-13b").providers
    assert [provider.model for provider in each] == [H2o("falcon-7b").model, H2o("llama-13b").model]
    assert "allowed is once, or 2 times" in refused("hi", *two, *["--model", "falcon-7b"] * 3)


def test_values_by_name_go_to_their_providers() -> None:
    h2o, allenai = asked(
        *("hi", "-p", "h2o", "-p", "allenai", "--model", "allenai=olmo-1-7b", "--model", "h2o=falcon-7b")
    ).providers
    assert (h2o.model, allenai.model) == (H2o("falcon-7b").model, "olmoe-0125")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hi", "-p", "h20"], "there are h2o, openassistant, allenai"),
        (["why", "is", "it"], 'in quotes: trioprov ask "why is it"'),
        ([" "], "the prompt is empty"),
        (["\udcff"], "not UTF-8"),
        (["hi", "--emulated", "--model", "falcon-7b"], "h2o=…, openassistant=…, allenai=…"),
        (["hi", "--emulated", "--model", "h20=falcon-7b"], "there is no provider 'h20'"),
        (["hi", "-p", "allenai", "--model", "h2o=falcon-7b"], "add -p h2o (asked: allenai)"),
        (["hi", "-p", "h2o", "--model", "falcon"], "h2o: H2o has no model 'falcon'; it has: "),
        (["hi", "-p", "h2o", "--model="], "--model: the value is empty"),
        (["hi", "-p", "h2o", "--base-url", "localhost"], "h2o: base_url must be a URL"),
        (["hi", "--emulated", "--base-url", "h2o=http://x"], "--base-url does not go with --emulated"),
        (["hi", "-p", "h2o", "--proxy", "ftp://x"], "proxy must be a URL"),
        (["hi", "-p", "h2o", "--proxy", ""], "--proxy: the value is empty"),
        (["hi", "-o", "max_tokens"], "must be KEY=VALUE"),
        (["hi", "-o", "=1"], "must be KEY=VALUE"),
        (["hi", "-o", "stop=a", "-o", "stop=b"], '-o \'stop=["a", "b"]\''),
        (["hi", "-o", "client=1"], "not a generation parameter"),
        (["hi", "-o", "on_error=cancel"], "not a generation parameter"),
        (["hi", "--race", "-o", "until=finished"], "not a generation parameter"),
        (["hi", "--stagger", "0"], "--stagger goes with --race"),
        (["hi", "--until", "finished"], "--until goes with --race"),
        (["hi", "--emulated", "-o", "stream=true"], "allenai: 'stream' is not a generation parameter"),
        (["hi", "-p", "allenai", "-o", "temperature=2"], "temperature must be at least 0 and at most 1, not 2"),
    ],
)
def test_a_usage_error_says_what_is_allowed(arguments: list[str], said: str) -> None:
    assert said in refused(*arguments)


def test_a_race_starts_all_at_once_and_is_won_by_the_first_token_unless_told_otherwise() -> None:
    it = asked("hi", "--emulated", "--race")
    assert (it.race, it.until, it.stagger) == (True, "first_token", 0.0)
    it = asked("hi", "--emulated", "--race", "--until", "finished", "--stagger", "inf")
    assert (it.race, it.until, it.stagger) == (True, "finished", math.inf)
    assert not asked("hi", "--emulated").race


def test_parameters_are_json_where_they_can_be() -> None:
    given = ["max_tokens=20", "temperature=0.4", 'stop=["a", "b"]', "seed=null", "user=Ann=1", "plain=yes"]
    assert asked("hi", *(word for item in given for word in ("-o", item))).parameters == {
        "max_tokens": 20,
        "temperature": 0.4,
        "stop": ["a", "b"],
        "seed": None,
        "user": "Ann=1",
        "plain": "yes",
    }


def test_a_prompt_in_utf_8_is_one_in_every_locale(environment: dict[str, str]) -> None:
    environment.update(LC_ALL="C", PYTHONUTF8="0")
    script = "import sys; from trioprov.cli._options import _prompt; sys.exit(_prompt(sys.argv[1:]) != 'caf\\xe9')"
    subprocess.run([sys.executable, "-c", script, "café"], env=environment, check=True, timeout=30)


def test_what_only_some_providers_refuse_is_no_usage_error() -> None:
    assert asked("hi", "--emulated", "-o", "stop=x").parameters == {"stop": "x"}
    assert "Open Assistant has no stop" in refused("hi", "-p", "openassistant", "-o", "stop=x")


def test_a_dash_reads_the_prompt_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("zwei\nZeilen ü\n".encode())))
    assert asked("-", "-p", "h2o").prompt == "zwei\nZeilen ü"


# -- Cookies -----------------------------------------------------------------------------------------------------------


def netscape(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["# Netscape HTTP Cookie File", *lines, ""]))
    return str(path)


def test_a_json_file_of_cookies_goes_to_those_who_need_an_account(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"next-auth.session-token": SECRET}))
    file = str(tmp_path / "c.json")
    (only,) = asked("hi", "-p", "openassistant", "--cookies", file).providers
    assert only == OpenAssistant(cookies={"next-auth.session-token": SECRET})
    h2o, openassistant = asked("hi", "-p", "h2o", "-p", "openassistant", "--cookies", file).providers
    assert (h2o, openassistant) == (H2o(), only)
    (h2o,) = asked("hi", "-p", "h2o", "--cookies", f"h2o={file}").providers
    assert h2o.cookies == {"next-auth.session-token": SECRET}


def test_a_json_file_of_cookies_goes_to_nobody_whom_the_user_did_not_name(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"token": SECRET}))
    assert "say NAME=FILE" in refused("hi", "--cookies", str(tmp_path / "c.json"))


def test_a_cookies_txt_goes_to_its_domains_and_a_session_has_no_end(tmp_path: Path) -> None:
    file = netscape(
        tmp_path / "cookies.txt",
        f"#HttpOnly_open-assistant.io\tFALSE\t/\tTRUE\t0\tsession\t{SECRET}",
        f"open-assistant.io\tFALSE\t/\tTRUE\t{time.time() + 1000:.0f}\tlater\t1",
        "open-assistant.io\tFALSE\t/\tTRUE\t1000000000\told\t1",
        "elsewhere.example\tFALSE\t/\tTRUE\t0\tother\t1",
    )
    h2o, openassistant = asked("hi", "-p", "h2o", "-p", "openassistant", "--cookies", file).providers
    assert openassistant.cookies == {"session": SECRET, "later": "1"}
    assert not h2o.cookies


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_a_cookies_txt_may_come_out_of_a_pipe_or_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = Path(netscape(tmp_path / "cookies.txt", "open-assistant.io\tFALSE\t/\tFALSE\t0\tsession\ts3cret"))
    (plain,) = asked("hi", "-p", "openassistant", "--cookies", str(file)).providers
    reading, writing = os.pipe()
    os.write(writing, file.read_bytes())
    os.close(writing)
    (piped,) = asked("hi", "-p", "openassistant", "--cookies", f"/dev/fd/{reading}").providers
    os.close(reading)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    (marked,) = asked("hi", "-p", "openassistant", "--cookies", str(file)).providers
    assert plain == piped == marked


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"open-assistant.io\t{SECRET}\n", "neither a cookies.txt"),
        (f"# Netscape HTTP Cookie File\nopen-assistant.io\t{SECRET}\n", "neither a cookies.txt"),
        ("# Netscape HTTP Cookie File\n", "there is no cookie in it"),
        (f"# Netscape HTTP Cookie File\nx.io\tFALSE\t/\tTRUE\t1000000000\tt\t{SECRET}\n", "has expired"),
        (f'{{"token": {SECRET}}}', "begins like JSON"),
        (f'{{"token": ["{SECRET}"]}}', "must be a JSON object of names and texts"),
        (f'["{SECRET}"]', "must be a JSON object of names and texts"),
        (f'{{"token": "{SECRET}\\n"}}', "the value of the cookie 'token' cannot be sent"),
        ("\udcff", "not a text file"),
    ],
)
def test_a_broken_cookie_file_is_a_usage_error_that_does_not_show_it(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "c"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    message = refused("hi", "-p", "openassistant", "--cookies", str(path))
    assert said in message
    assert SECRET not in message


def test_a_missing_cookie_file_is_a_usage_error(tmp_path: Path) -> None:
    assert "No such file" in refused("hi", "-p", "h2o", "--cookies", str(tmp_path / "none"))


# -- main --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ask"],
        ["ask", "x", "--nonsense"],
        ["ask", "x", "-p", "no"],
        ["ask", "x", "--json", "--plain"],
        ["ask", "x", "--json", "-p", "no"],
        ["ask", "x", "--race", "--stagger", "-1"],
        ["ask", "x", "--race", "--stagger", "nan"],
        ["ask", "x", "--race", "--until", "lunch"],
        ["emulate", "no"],
    ],
)
def test_a_usage_error_exits_with_2_and_says_why_on_stderr(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: " in err


def test_help_and_version_exit_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == main(["--help"]) == main(["ask", "--help"]) == 0
    assert "trioprov" in capsys.readouterr().out


def test_providers_tells_what_each_needs_and_cleans_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["providers"]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    h2o, openassistant, allenai = blocks[:3]
    assert h2o.startswith("h2o: H2o, https://gpt-gm.h2o.ai")
    assert "aliases         falcon-40b = h2oai/" in h2o
    assert "account         needed" in openassistant
    assert "public service  closed" in openassistant
    assert "account         not needed" in allenai
    assert "cleanup         deletes the conversation" in allenai
    assert "parameters      max_tokens, " in allenai
