"""What may be typed, and the help that says so."""

from __future__ import annotations

import argparse
import math

from .. import PROVIDERS, __version__
from . import _commands

_ASK_EPILOG = """\
several providers:
  Where more than one provider is asked, --model, --base-url and --cookies take
  NAME=VALUE, once for each: --model h2o=falcon-7b. A provider that is asked
  twice (-p h2o -p h2o) takes one value for both, or two in order.

who is asked without -p:
  With --emulated, our own three; with --base-url NAME=URL, the providers named
  there; else every provider whose public service is not known to have closed,
  and which needs no account or gets --cookies.

a race:
  With --race, only the answer that wins is shown; the other providers are
  stopped, and their conversations deleted, in the instant in which it does. Who
  is named first starts first. What everybody did is told at the end.

exit status:
  0 every provider answered, or in a race, the one that won did; 1 some did
  not, or nobody won; 2 the command was wrong, and nothing was sent; 130 after
  Ctrl-C (143 after SIGTERM, 129 when the terminal was closed), with the
  conversations deleted. A second Ctrl-C leaves at once; with --journal,
  `trioprov sweep` deletes later what that left.
"""

_SWEEP_EPILOG = """\
debts that need you:
  Your cookies and your proxy are not in the journal. A conversation that was
  created with them is deleted only if they are given again, the very same ones:
  -p NAME --cookies FILE, and --base-url and --proxy as they were. Where there
  is more than one provider, --base-url and --cookies take NAME=VALUE, as in
  `trioprov ask`. Headers of your own can be given to trioprov.sweep in Python.

exit status:
  0 nothing is owed any more, but for what living processes see to; 1 something
  stays in the journal; 2 the command was wrong, or the journal cannot be used;
  130 after Ctrl-C (143 after SIGTERM, 129 when the terminal was closed): what
  was not confirmed stays in the journal.
"""


def build() -> argparse.ArgumentParser:
    """The parser; what it returns holds the function to call in ``command``."""
    parser = argparse.ArgumentParser(
        prog="trioprov",
        description="Ask chat providers side by side. Whatever happens, the conversations are deleted on the servers.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"trioprov {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    names = ", ".join(PROVIDERS)

    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("-v", "--verbose", action="store_true", help="say on stderr what trioprov does")

    ask = commands.add_parser(
        "ask",
        parents=[common],
        help="one prompt to several providers, side by side",
        description="Send one prompt to several providers and show the answers side by\n"
        "side as they arrive. Into a pipe or a file, or with --plain, they are plain\n"
        "text; with --json, all that happens is JSON, an object a line. Whatever happens,\n"
        "the conversations are deleted on the servers.",
        epilog=_ASK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    ask.add_argument("prompt", nargs="+", metavar="PROMPT", help="what to ask; - reads it from standard input")
    ask.add_argument(
        "-p",
        "--provider",
        action="append",
        dest="providers",
        metavar="NAME",
        default=[],
        help=f"whom to ask, any number of times, also the same one twice: {names}",
    )
    ask.add_argument(
        "--model",
        action="append",
        dest="models",
        metavar="[NAME=]MODEL",
        default=[],
        help="a model's full id or alias (see: trioprov providers)",
    )
    ask.add_argument(
        "--base-url",
        action="append",
        dest="base_urls",
        metavar="[NAME=]URL",
        default=[],
        help="the server to ask, if it is not the public one",
    )
    ask.add_argument(
        "--cookies",
        action="append",
        metavar="[NAME=]FILE",
        default=[],
        help="the cookies of your login: a cookies.txt in Netscape's format, each sent to its own domain only, or a "
        "JSON object of names and values; asked together with others, those who need an account get the JSON file",
    )
    ask.add_argument("--proxy", metavar="URL", help="reach all of them through this HTTP or SOCKS proxy")
    ask.add_argument(
        "-o",
        "--option",
        action="append",
        dest="options",
        metavar="KEY=VALUE",
        default=[],
        help="a generation parameter, for every provider: max_tokens=200, temperature=0.4, stop='[\"END\"]'; "
        "the value is read as JSON, and as text if it is none",
    )
    ask.add_argument(
        "--journal",
        metavar="PATH",
        help="a file in which every conversation is written down before it exists, until it is deleted, so that "
        "`trioprov sweep` can delete what is left by a crash or a second Ctrl-C; what is in it already, and nobody "
        "alive sees to, is deleted on the way",
    )
    ask.add_argument("--race", action="store_true", help="show the answer of whoever is first, and stop the others")
    ask.add_argument(
        "--stagger",
        type=_seconds,
        metavar="SECONDS",
        help="in a race, start each provider so long after the one before, or as soon as one has failed; inf: only "
        "then; by default all start at once",
    )
    ask.add_argument(
        "--until",
        choices=("first_token", "finished"),
        help="what wins a race: the first token that is not blank (the default), or the first complete answer",
    )
    output = ask.add_mutually_exclusive_group()
    output.set_defaults(output="live")
    output.add_argument(
        "--plain",
        action="store_const",
        dest="output",
        const="plain",
        help="plain text as into a pipe, also on a terminal",
    )
    output.add_argument(
        "--json",
        action="store_const",
        dest="output",
        const="json",
        help="tell everything that happens on standard output, one JSON object a line, as README describes them",
    )
    ask.add_argument(
        "--emulated",
        action="store_true",
        help="ask servers bundled with trioprov, started for this question on this machine: no account, no network",
    )
    ask.set_defaults(command=_commands.ask)

    sweep = commands.add_parser(
        "sweep",
        parents=[common],
        help="delete the conversations that a crash left",
        description="Delete the conversations that dead processes left behind in a journal\n"
        "(trioprov ask --journal), and show what stays in it. Those of living\n"
        "processes are not touched.",
        epilog=_SWEEP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sweep.add_argument("--journal", metavar="PATH", required=True, help="the file; it must be there")
    sweep.add_argument(
        "-p",
        "--provider",
        action="append",
        dest="providers",
        metavar="NAME",
        default=[],
        help=f"who may delete what needs your cookies or your proxy, any number of times: {names}",
    )
    sweep.add_argument(
        "--base-url",
        action="append",
        dest="base_urls",
        metavar="[NAME=]URL",
        default=[],
        help="the server that was asked, if it was not the public one",
    )
    sweep.add_argument(
        "--cookies",
        action="append",
        metavar="[NAME=]FILE",
        default=[],
        help="the cookies that were used, as in `trioprov ask`",
    )
    sweep.add_argument("--proxy", metavar="URL", help="the proxy that was used")
    instead = sweep.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="only show what is in the journal; nothing is deleted")
    instead.add_argument(
        "--abandon",
        action="extend",
        nargs="+",
        type=_entry,
        metavar="ID",
        help="only strike these entries out, by their numbers; what they stand for is not deleted",
    )
    sweep.set_defaults(command=_commands.sweep, models=[], emulated=False)

    providers = commands.add_parser(
        "providers",
        parents=[common],
        help="what there is, what it needs, what it cleans up",
        description="List the providers: models, parameters, what they need and what they clean up.",
        allow_abbrev=False,
    )
    providers.add_argument("--plain", action="store_true", help="plain text as into a pipe, also on a terminal")
    providers.set_defaults(command=_commands.providers)

    emulate = commands.add_parser(
        "emulate",
        parents=[common],
        help="serve the emulators for other programs",
        description="Serve emulators of the services for other programs, until Ctrl-C. At the end it tells which "
        "conversations nobody has deleted.",
        allow_abbrev=False,
    )
    emulate.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which services; all of them if none: {', '.join(PROVIDERS.ours)}"
    )
    emulate.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    emulate.add_argument(
        "--port",
        type=_port,
        default=0,
        help="the port of the first, the others take those that follow; by default any free ones",
    )
    emulate.set_defaults(command=_commands.emulate)
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds: 0 or more, or inf")
    return seconds


def _entry(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of an entry")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a whole number from 0 to 65535")
    return int(text)
