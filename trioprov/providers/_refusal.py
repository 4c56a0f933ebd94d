"""What a server's "no" means, and how much of its words may be repeated."""

from __future__ import annotations

import re
import string
from typing import Any, cast

from .._errors import AuthenticationError, InvalidRequest, Overloaded, ProviderError, RateLimited, TrioprovError
from ._steps import Response

# Credentials are made of these: they end up in headers.
_VISIBLE = string.ascii_letters + string.digits + string.punctuation

# What Traefik and the ingress controller of nginx say while the server behind them is down.
_GATEWAYS_OWN = (b"404 page not found", b"default backend - 404")

# For servers that say no more than a status.
_UNSAID = {
    401: "the server does not know who is asking: credentials are missing or not accepted",
    403: "the server does not let these credentials do that",
    404: "the server has nothing there: check base_url",
    407: "the proxy wants credentials",
    408: "the server has waited for the request too long",
    413: "the prompt is too large for the server",
    429: "too many requests",
    503: "the server has no capacity at the moment",
}


def refusal(response: Response, *, code: str | None = None, message: str = "") -> ProviderError:
    """The `ProviderError` that fits a status, the same for every service unless its provider knows better."""
    status = response.status
    if status in (401, 403, 407):
        kind: type[ProviderError] = AuthenticationError
    elif status == 429:
        kind = RateLimited
    elif status == 503:
        kind = Overloaded
    elif 400 <= status < 500 and status != 408:
        kind = InvalidRequest
    else:
        kind = ProviderError
    if 300 <= status < 400:
        # The server alone: what follows its name may hold a token.
        found = re.match(r"(https?://[\w.:-]+)([/?#]|$)", "".join(response.all("location")[:1]))
        where = f" to {shortened(found[1], 100)}" if found else ""
        message = f"the server redirects{where}: check base_url, or who you are to it"
    elif response.ok and by_gateway(response):
        message = f"a page instead of an answer ({message or 'untitled'}): check base_url, or who you are to it"
    message = message or _UNSAID.get(status) or f"HTTP status {status}"
    return kind(message, status=status, code=code, retry_after=response.retry_after)


def reason(response: Response) -> tuple[str | None, str]:
    """The code and the sentence of an error body, from where most services have them; else the text itself."""
    body = parsed(response)
    if not body:
        return None, plain_text(response.body)
    error = body.get("error")
    fields = cast("dict[str, Any]", error) if isinstance(error, dict) else body
    said = next((fields[name] for name in ("message", "detail", "error") if fields.get(name)), "")
    return code_word(fields.get("code")), shortened(said)


def by_gateway(response: Response) -> bool:
    """Whether somebody on the way seems to have answered in the service's place: a gateway, or a login.

    They do so with a page, where a service has JSON or nothing; or in a few words that are known.
    """
    body = response.body.strip()
    return body.startswith(b"<") or body in _GATEWAYS_OWN


def parsed(response: Response) -> dict[str, Any]:
    """A body as a JSON object; empty when it is none."""
    try:
        value = response.json()
    except TrioprovError:
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def code_word(value: object) -> str | None:
    """A service's own word for what went wrong, if it is one or a few words."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z_ -]{0,59}", value) else None


def plain_text(body: bytes) -> str:
    """The start of an error body as one printable line; of markup its title, since a gateway's page says no more."""
    text = body.strip()[:8192].decode("utf-8", "replace")
    if text.startswith("<"):
        found = re.search(r"<title[^<>]*>([^<]*)<", text, re.IGNORECASE)
        text = found.group(1) if found else ""
    return shortened(text)


def shortened(text: object, most: int = 300) -> str:
    """At most ``most`` characters of ``text`` and an ellipsis, on one line, without control characters.

    It is not cut inside what may be a credential that the server echoes: such a one is there whole, to be blotted out
    by whoever shows the text, or not at all.
    """
    try:
        whole = str(text)
    except (RecursionError, ValueError):  # nested deeper than `str` follows, or a number of too many digits
        return "…"
    start = whole[: most * 4]
    line = " ".join("".join(char if char.isprintable() else " " for char in start).split())
    if len(start) == len(whole) and len(line) <= most:
        return line
    return f"{line[:most].rstrip(_VISIBLE).rstrip()}…"
