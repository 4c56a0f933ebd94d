"""Who is measured, and against whom."""

from __future__ import annotations

from harness import Client

FLOOR = Client("the floor", "floor.py", needs=("httptools",))
HANDED_OVER = Client("the floor, handed over to asyncio", "floor_on_asyncio.py", needs=("httptools",))
TRIOPROV = Client("**trioprov**", "with_trioprov.py")
AIOHTTP = Client("aiohttp by hand, on asyncio", "with_aiohttp.py", needs=("aiohttp",))
UVLOOP = Client("aiohttp by hand, on uvloop", "with_aiohttp.py", loop="uvloop", needs=("aiohttp", "uvloop"))
HTTPX = Client("httpx by hand, on trio", "with_httpx.py")
G4F = Client("g4f 0.2.5.4's H2o", "with_g4f.py", "g4f")
OPENAI = Client("OpenAI SDK", "with_openai.py", "openai", slow=True, format="openai")
LITELLM = Client("LiteLLM", "with_litellm.py", "litellm", slow=True, format="openai")
ANY_LLM = Client("any-llm", "with_any_llm.py", "any-llm", slow=True, format="openai")
PYDANTIC_AI = Client("pydantic-ai", "with_pydantic_ai.py", "pydantic-ai", slow=True, format="openai")
ON_ASYNCIO = Client("**trioprov.anyio**, on asyncio", "with_trioprov_anyio.py")

BY_HAND = (FLOOR, TRIOPROV, AIOHTTP, HTTPX)
LIBRARIES = (G4F, OPENAI, LITELLM, ANY_LLM, PYDANTIC_AI)
