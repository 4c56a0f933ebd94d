"""Cookie files: a user's login, which goes to its own service, and into no message."""

from __future__ import annotations

import io
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from http.cookiejar import CookieJar, LoadError, MozillaCookieJar
from typing import Any, cast

from ._usage import UsageError, load, one_each


def for_lanes(
    values: Sequence[tuple[str, str]], names: Sequence[str], *, chosen: bool
) -> list[Mapping[str, str] | CookieJar | None]:
    """The cookies for each lane. One service's login must not be told to another.

    Args:
        values: names, or ``""``, and files.
        names: who is asked.
        chosen: whether the user named them, so that cookies for the only one can be meant for nobody else.

    Raises:
        UsageError: a file cannot be used, or it is not clear whose cookies it holds.
    """
    everybody: CookieJar | None = None
    named: list[tuple[str, Mapping[str, str] | CookieJar]] = []
    for name, path in values:
        cookies = _cookie_file(path)
        if name or (chosen and len(set(names)) == 1):
            named.append((name, cookies))
        elif isinstance(cookies, CookieJar):
            if everybody is not None:
                raise UsageError("--cookies: more than one cookies.txt; say whose they are: NAME=FILE")
            everybody = cookies  # each provider takes those of its own domain
        else:
            takers = [known for known in dict.fromkeys(names) if load(known).needs_auth]
            if not takers:
                raise UsageError(
                    "--cookies: a JSON file does not say whose cookies it holds; say NAME=FILE, any of: "
                    f"{', '.join(dict.fromkeys(names))}"
                )
            named += [(taker, cookies) for taker in takers]
    return [everybody if own is None else own for own in one_each("--cookies", named, names)]


def _cookie_file(path: str) -> Mapping[str, str] | CookieJar:
    """The cookies in a file; no message quotes what stands there."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as exc:
        raise UsageError(f"--cookies: {path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--cookies: {path}: not a text file") from None
    if text.lstrip().startswith(("{", "[")):
        return _json_cookies(path, text)
    return _netscape_cookies(path, text)


def _json_cookies(path: str, text: str) -> Mapping[str, str]:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"--cookies: {path}: begins like JSON, but is none") from None
    if isinstance(value, dict):
        cookies = cast("dict[str, object]", value)
        if all(isinstance(item, str) for item in cookies.values()):
            return cast("dict[str, str]", cookies)
    raise UsageError(f'--cookies: {path}: must be a JSON object of names and texts, {{"name": "value", …}}')


def _netscape_cookies(path: str, text: str) -> CookieJar:
    jar: Any = MozillaCookieJar()
    try:
        with warnings.catch_warnings():
            # For a line that it cannot read, the parser warns of a bug in itself and shows a traceback.
            warnings.simplefilter("ignore")
            # Not `load`, which opens the file again: a pipe has nothing left, and a byte order mark is back.
            jar._really_load(io.StringIO(text), path, ignore_discard=True, ignore_expires=True)
    except (LoadError, OSError, ValueError):
        raise UsageError(
            f"--cookies: {path}: neither a cookies.txt in Netscape's format (its first line is "
            f"'# Netscape HTTP Cookie File') nor a JSON object of names and values"
        ) from None
    now = time.time()
    # Browsers export the cookies of a session as expired in 1970.
    old = [cookie for cookie in jar if cookie.expires and cookie.expires <= now]
    for cookie in old:
        jar.clear(cookie.domain, cookie.path, cookie.name)
    if not len(jar):
        raise UsageError(
            f"--cookies: {path}: {'every cookie in it has expired' if old else 'there is no cookie in it'}"
        )
    return jar
