"""g4f 0.2.5.4, the last kind with a provider for H2O: the class is the earlier client of this service."""

# A peer, which only an environment of its own has.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from _sdk import PROMPT, main
from g4f.Provider.deprecated.H2o import H2o


def answer(url: str, model: str):
    """Settings, conversation, stream, DELETE."""
    H2o.url = url
    return H2o.create_async_generator(model, [{"role": "user", "content": PROMPT}])


if __name__ == "__main__":
    main(answer)
