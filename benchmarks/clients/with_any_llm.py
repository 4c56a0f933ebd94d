"""any-llm, with OpenAI's format."""

# A peer, which only an environment of its own has.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from _sdk import PROMPT, main
from any_llm import acompletion


async def answer(url: str, model: str):
    """A completion; nothing is created."""
    question = [{"role": "user", "content": PROMPT}]
    stream = await acompletion(
        model=model, provider="openai", messages=question, stream=True, api_base=f"{url}/v1", api_key="x"
    )
    async for chunk in stream:
        if chunk.choices and (content := chunk.choices[0].delta.content):
            yield content


if __name__ == "__main__":
    main(answer)
