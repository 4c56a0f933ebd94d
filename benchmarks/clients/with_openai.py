"""The OpenAI SDK, with its own format."""

# A peer, which only an environment of its own has.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from _sdk import PROMPT, main
from openai import AsyncOpenAI


async def answer(url: str, model: str):
    """A completion; nothing is created."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as client:
        question = {"role": "user", "content": PROMPT}
        async for chunk in await client.chat.completions.create(model=model, messages=[question], stream=True):
            if chunk.choices and (content := chunk.choices[0].delta.content):
                yield content


if __name__ == "__main__":
    main(answer)
