"""The command line: ``trioprov ask``, ``trioprov sweep``, ``trioprov providers``, ``trioprov emulate``.

A room has one sentence: `_parser` is what may be typed; `_options`, `_cookies` and `_usage` turn it into providers or
into a usage error; `_commands` is what each command does; `_asking` is one question from the first request to the last
DELETE, and `_telling` what is said about it at the end; `_course` is its lanes and what they send, racing or not;
`_live` (on `_wrap`), `_plain` and `_json` (on `_output`) show it; `_sweeping` is a journal, paid and shown;
`_interrupts` is Ctrl-C; `_text` keeps a server's control characters from the terminal; `_advice` is what to do about an
error.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from . import _parser
from ._text import Voice
from ._usage import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the console script exits with what this returns.

    Args:
        argv: the arguments, without the program's name; `None` means those of the process.

    Returns:
        The exit status.
    """
    _open_closed()
    if os.environ.get("COLUMNS") == "0":  # not known; rich would take it at its word, and show nothing of an answer
        del os.environ["COLUMNS"]
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    voice = Voice()
    try:
        arguments = _parser.build().parse_args(argv)
        command: Callable[[argparse.Namespace, Voice], int] = arguments.command
        voice.listen(verbose=arguments.verbose)
        return command(arguments, voice)
    except UsageError as exc:
        voice.say(f"trioprov: error: {exc}")
        return 2
    except SystemExit as exc:  # argparse has said why
        return exc.code if isinstance(exc.code, int) else 2
    except KeyboardInterrupt:  # before anything was sent: from then on Ctrl-C is heard elsewhere
        return 130
    finally:
        voice.stop_listening()
        _flush()


def _open_closed() -> None:
    """Take the place of a standard stream that whoever started us has closed, before a socket or a journal does.

    It can be read, to its end at once, but not written: what is lost is told as on a full disk.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDONLY), closefd=False))  # noqa: SIM115


def _flush() -> None:
    """Write out what the standard streams hold, or drop it: at exit the interpreter would complain of a closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
