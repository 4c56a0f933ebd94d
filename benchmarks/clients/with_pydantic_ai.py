"""pydantic-ai, with OpenAI's format."""

# A peer, which only an environment of its own has.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from _sdk import PROMPT, main
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


async def answer(url: str, model: str):
    """A run of an agent without tools; nothing is created."""
    agent = Agent(OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="x")))
    async with agent.run_stream(PROMPT) as run:
        async for text in run.stream_text(delta=True, debounce_by=None):
            yield text


if __name__ == "__main__":
    main(answer)
