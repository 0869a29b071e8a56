"""Responses in OpenAI's form, completions and embeddings, from the pool's results."""

import asyncio
import base64
import json
import secrets
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from phalanx.serve.pending import Pending, Refused
from phalanx.serve.schemas import Completion, Embeddings, error
from phalanx.serve.worker_pool import WorkerPool


class Text:
    """The text of a completion as it grows, up to the first of the texts that end it; `held` may yet become one."""

    def __init__(self, stops: list[str]) -> None:
        self.stops, self.held, self.stopped = stops, "", False

    def add(self, piece: str, last: bool) -> str:
        """Add a piece, maybe the last. Return the text that can be sent now."""
        whole = self.held + piece
        cuts = [at for stop in self.stops if (at := whole.find(stop)) >= 0]
        if cuts:
            self.stopped, self.held = True, ""
            return whole[: min(cuts)]
        keep = 0 if last else max((_begun(whole, stop) for stop in self.stops), default=0)
        self.held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]


def _begun(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may begin `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


LISTS = "tokens", "token_logprobs", "top_logprobs", "text_offset"
Entry = tuple[str, float | None, dict[str, float] | None, int]  # what these lists hold of one token


class Part(NamedTuple):
    """Text that is new, why it ended if it did, and what is known of its tokens, where that is wanted."""

    text: str
    why: str
    entries: list[Entry]


class Logprobs:
    """Log probabilities of a completion's tokens. Those that begin past the text that was sent wait for it."""

    def __init__(self) -> None:
        self.held: deque[Entry] = deque()

    def add(self, entries: Sequence[Entry], length: int, rest: bool) -> list[Entry]:
        """Add `entries`. Return those of the next `length` characters of text, or all that are left."""
        self.held.extend(entries)

        ready = []
        while self.held and (rest or self.held[0][3] < length):
            ready.append(self.held.popleft())
        return ready


class Completing:
    """One request for completions: `n` for each prompt, side by side."""

    def __init__(self, pool: WorkerPool, model: str, asked: Completion) -> None:
        self.pool, self.model, self.asked = pool, model, asked
        self.head = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self.seed = secrets.randbits(62) if asked.seed is None else asked.seed
        prompts = [prompt for prompt in asked.prompt for _ in range(asked.n or 1)]
        self.jobs = [{"prompt": prompt, "options": asked.options(index, self.seed), "echo": asked.echo}
                     for index, prompt in enumerate(prompts)]  # fmt: skip
        self.prompt_tokens = self.completion_tokens = 0

    async def whole(self) -> dict[str, Any]:
        """Return the response as JSON when nothing is streamed. Refused, or an ExceptionGroup of it."""
        parts: list[list[Part]] = [[] for _ in self.jobs]
        await self._complete(self._submit(), lambda index, part: parts[index].append(part))
        choices = [self._choice(index, completion) for index, completion in enumerate(parts)]
        return {**self.head, "object": "text_completion", "choices": choices, "usage": self.usage()}

    async def events(self) -> AsyncIterator[str]:
        """Yield the response as server-sent events. An error that comes too late for a status is an event too. Refused
        before the first.
        """
        choices: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def enqueue(index: int, part: Part) -> None:
            if any(part):
                choices.put_nowait(self._choice(index, [part]))

        pending, begun = self._submit(), False
        task = asyncio.create_task(self._complete(pending, enqueue))
        task.add_done_callback(lambda _: choices.put_nowait(None))

        try:
            while (choice := await choices.get()) is not None:
                yield self._event({"choices": [choice]})
                begun = True
            await task
            if (self.asked.stream_options or {}).get("include_usage"):
                yield self._event({"choices": [], "usage": self.usage()})
            yield "data: [DONE]\n\n"
        except ExceptionGroup as group:
            refused = first_refused(group)
            if not begun:
                raise refused from None
            yield f"data: {json.dumps({'error': error(refused.status, refused.message)})}\n\n"
        finally:
            task.cancel()
            for each in pending:  # a task that was cancelled before its first step closes nothing
                each.close()

    def _submit(self) -> list[Pending]:
        """Submit all jobs of the request at once. Refused where they cannot be done."""
        return self.pool.submit(self.model, "complete", self.jobs, self.asked.timeout)

    async def _complete(self, pending: Sequence[Pending], on_part: Callable[[int, Part], None]) -> None:
        """Call `on_part` with the parts of all completions as they come. The first that fails ends the others."""

        async def forward(index: int) -> None:
            async for part in self._parts(index, pending[index]):
                on_part(index, part)

        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(pending)):
                    group.create_task(forward(index))
        finally:
            for each in pending:
                each.close()

    def usage(self) -> dict[str, int]:
        """Return how many tokens the prompts and the completions have, as OpenAI's clients expect it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def _event(self, what: dict[str, Any]) -> str:
        return f"data: {json.dumps({**self.head, 'object': 'text_completion', **what}, ensure_ascii=False)}\n\n"

    def _choice(self, index: int, parts: Sequence[Part]) -> dict[str, Any]:
        """Return a completion, or the next part of one, as OpenAI's clients expect it."""
        logprobs = None
        if self.asked.logprobs is not None:
            entries = [entry for part in parts for entry in part.entries]
            logprobs = {name: [entry[at] for entry in entries] for at, name in enumerate(LISTS)}
        text, why = "".join(part.text for part in parts), next((part.why for part in parts if part.why), None)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": why}

    async def _parts(self, index: int, pending: Pending) -> AsyncIterator[Part]:
        """Yield the parts of a completion as they come."""
        text, logprobs, length, counted, first = Text(self.asked.stop or []), Logprobs(), 0, 0, True
        with closing(pending):
            async for part, last in pending:
                self.completion_tokens += part["said"] - counted
                self.prompt_tokens += part["prompt"] if first and index % (self.asked.n or 1) == 0 else 0
                counted, first = part["said"], False
                piece = part["echo"] + text.add(part["text"], last)
                length += len(piece)
                why = "stop" if text.stopped else part["why"] if last else ""
                yield Part(piece, why, logprobs.add(part.get("logprobs", []), length, last and not text.stopped))
                if text.stopped:
                    return


def first_refused(group: BaseExceptionGroup[Any]) -> Refused:
    """Return the refusal that ended the tasks of a group. Another error is raised as it is."""
    failure: Any = group.exceptions[0]
    if not isinstance(failure, Refused):
        raise failure
    return failure


async def embeddings(pool: WorkerPool, model: str, asked: Embeddings) -> dict[str, Any]:
    """Return the response to a request for embeddings, as JSON. Refused where they cannot be had."""
    result = await pool.ask(model, "embed", {"texts": asked.input}, asked.timeout)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _packed(vector) if asked.encoding_format == "base64" else vector,
        }
        for index, vector in enumerate(result["vectors"])
    ]
    usage = {"prompt_tokens": result["tokens"], "total_tokens": result["tokens"]}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
