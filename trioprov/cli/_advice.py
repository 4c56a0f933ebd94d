"""What the user can do about an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import (
    AuthenticationError,
    ConnectionFailed,
    DeadlineExceeded,
    IncompleteReply,
    InvalidRequest,
    JournalError,
    ModelNotSupported,
    Overloaded,
    RateLimited,
    RemoteProtocolError,
)

if TYPE_CHECKING:
    from ..providers import Provider


def closed(provider: Provider) -> bool:
    """Whether it points at a public service that is known to have closed."""
    return provider.working is False and provider.base_url == provider.default_base_url


def advice(provider: Provider, error: Exception) -> str:
    """One sentence, or nothing."""
    name = provider.name
    match error:
        case JournalError():
            return "What could not be written down was not sent: ask again, with another --journal, or with none."
        case ModelNotSupported():
            return "Choose another --model; `trioprov providers` lists those of the public service."
        case TypeError() | ValueError():
            return f"Change -o; `trioprov providers` lists what {name} takes."
        case _ if closed(provider):
            return f"Its public service has closed: use --base-url {name}=URL with a server of your own, or --emulated."
        case AuthenticationError() if not provider.needs_auth:
            return "The server wants a login: give its cookies with --cookies FILE."
        case AuthenticationError() if provider.cookies:
            return "The cookies were not accepted: log in again in your browser, and export them anew."
        case AuthenticationError():
            return (
                f"It needs the cookies of your login at {provider.base_url}: --cookies FILE "
                "(a cookies.txt holds only for the domains named in it)."
            )
        case RateLimited() if error.retry_after is not None:
            return f"Ask again in {error.retry_after:.0f} s."
        case RateLimited() | Overloaded():
            return "Ask again in a while, or another --model."
        case InvalidRequest():
            return "The server refuses this request: another prompt, --model or -o may do."
        case ConnectionFailed():
            return f"Is there a server at {provider.base_url}? See --base-url and --proxy."
        case DeadlineExceeded():
            return "The service is slow or stuck: ask again later, or another --model."
        case IncompleteReply():
            return "The connection broke off: ask again."
        case RemoteProtocolError():
            return f"Is it really a server for {name} at {provider.base_url}?"
        case _:
            return ""


def described(error: Exception) -> str:
    """An error's kind and what it says."""
    said = str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
