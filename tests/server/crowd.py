"""Many impatient clients in a process of their own: `python crowd.py URL REQUESTS.json COUNT SEED AT_ONCE`.

Each takes one of the requests, and waits for the answer, streams it, or leaves halfway. Prints what
came: {"texts": [[request, text], ...], "refused": how often 429 came, "left": how many went away}.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

import httpx


class Crowd:
    """Clients that share a list of requests."""

    def __init__(self, url: str, requests: list[dict], seed: int) -> None:
        self._url, self._requests = url, requests
        self._dice = random.Random(seed)
        self.texts: list[tuple[int, str]] = []
        self.refused = self.left = 0

    async def go(self, count: int, at_once: int) -> None:
        """`count` requests, `at_once` of them open at a time."""
        turn = asyncio.Semaphore(at_once)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=120, limits=limits) as http:

            async def one() -> None:
                async with turn:
                    await self._one(http)

            await asyncio.gather(*(one() for _ in range(count)))

    async def _one(self, http: httpx.AsyncClient) -> None:
        number = self._dice.randrange(len(self._requests))
        request = self._requests[number]
        manner = self._dice.choice(("wait", "wait", "stream", "stream", "leave a stream", "leave"))
        stream = "stream" in manner
        body = request["body"] | {"stream": stream}
        while True:
            try:
                if stream:
                    text = await self._streamed(http, request["path"], body, leave=manner == "leave a stream")
                else:
                    asked = http.post(request["path"], json=body)
                    patience = self._dice.uniform(0.001, 0.01) if manner == "leave" else None
                    text = _text_of((await asyncio.wait_for(asked, patience)).json())
            except TimeoutError:
                text = None
            if text != "429":
                break
            self.refused += 1
            await asyncio.sleep(self._dice.uniform(0.005, 0.05))
        if text is None:
            self.left += 1
        else:
            self.texts.append((number, text))

    async def _streamed(self, http: httpx.AsyncClient, path: str, body: dict, leave: bool) -> str | None:
        patience = self._dice.randrange(8) if leave else -1
        text = ""
        async with http.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                await response.aread()
                return _text_of(response.json())
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return text
                if line:
                    patience -= 1
                    text += _text_of(json.loads(line.removeprefix("data: ")))
                if patience == 0:
                    return None
        raise RuntimeError("a stream ended without [DONE]")


def _text_of(body: dict) -> str:
    """The text in an answer or a chunk; "429" where the queue was full."""
    if "error" in body:
        if body["error"]["code"] != "queue_full":
            raise RuntimeError(body["error"])
        return "429"
    choice = body["choices"][0]
    if "text" in choice:
        return choice["text"]
    return choice.get("message", choice.get("delta", {})).get("content") or ""


if __name__ == "__main__":
    url, file, count, seed, at_once = sys.argv[1:]
    crowd = Crowd(url, json.loads(Path(file).read_text(encoding="utf-8")), int(seed))
    asyncio.run(crowd.go(int(count), int(at_once)))
    json.dump({"texts": crowd.texts, "refused": crowd.refused, "left": crowd.left}, sys.stdout)
