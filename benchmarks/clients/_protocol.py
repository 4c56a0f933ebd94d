"""What a client written by hand sends: the same bodies in all of them."""

from __future__ import annotations

import uuid
from typing import Any


def settings(model: str) -> dict[str, str]:
    """The form that accepts the terms."""
    return {"ethicsModalAccepted": "true", "activeModel": model}


def question(count: int) -> dict[str, Any]:
    """The request for a stream of ``count`` tokens."""
    return {
        "inputs": "Why is the sky blue?",
        "parameters": {
            "temperature": 0.4,
            "truncate": 2048,
            "max_new_tokens": count,
            "do_sample": True,
            "repetition_penalty": 1.2,
            "return_full_text": False,
        },
        "stream": True,
        "options": {
            "id": str(uuid.uuid4()),
            "response_id": str(uuid.uuid4()),
            "is_retry": False,
            "use_cache": False,
            "web_search_id": "",
        },
    }
