"""LiteLLM, with OpenAI's format."""

# A peer, which only an environment of its own has.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a list of prices first

import litellm
from _sdk import PROMPT, main


async def answer(url: str, model: str):
    """A completion; nothing is created."""
    question = [{"role": "user", "content": PROMPT}]
    stream = await litellm.acompletion(
        model=f"openai/{model}", messages=question, stream=True, api_base=f"{url}/v1", api_key="x"
    )
    async for chunk in stream:
        if chunk.choices and (content := chunk.choices[0].delta.content):
            yield content


if __name__ == "__main__":
    main(answer)
