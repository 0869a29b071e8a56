"""OpenAI's completions and embeddings from the pool's results."""

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
        """Add a piece, maybe the last; the text that can be told now."""
        whole = self.held + piece
        cuts = [at for stop in self.stops if (at := whole.find(stop)) >= 0]
        if cuts:
            self.stopped, self.held = True, ""
            return whole[: min(cuts)]
        keep = 0 if last else max((_begun(whole, stop) for stop in self.stops), default=0)
        self.held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may begin `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


LISTS = "tokens", "token_logprobs", "top_logprobs", "text_offset"
Entry = tuple[str, float | None, dict[str, float] | None, int]  # what these lists hold of one token


class Part(NamedTuple):
    """Text that is new, why it ended if it did, and what is known of its tokens, where that is wanted."""

    text: str
    why: str
    entries: list[Entry]


class Logprobs:
    """What is known of a completion's tokens; those that begin past the text that was told wait for it."""

    def __init__(self) -> None:
        self.held: deque[Entry] = deque()

    def add(self, entries: Sequence[Entry], length: int, rest: bool) -> list[Entry]:
        """Take the tokens of the next `length` characters of text, or all that are left."""
        self.held.extend(entries)
        told = []
        while self.held and (rest or self.held[0][3] < length):
            told.append(self.held.popleft())
        return told


class Completing:
    """One request for completions: `n` for each prompt, side by side."""

    def __init__(self, pool: WorkerPool, model: str, asked: Completion) -> None:
        self.pool, self.model, self.asked = pool, model, asked
        self.head = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self.seed = secrets.randbits(62) if asked.seed is None else asked.seed
        prompts = [prompt for prompt in asked.prompt for _ in range(asked.n or 1)]
        self.jobs = [{"prompt": prompt, "options": asked.options(index, self.seed), "echo": asked.echo}
                     for index, prompt in enumerate(prompts)]  # fmt: skip
        self.said = self.given = 0  # tokens

    async def whole(self) -> dict[str, Any]:
        """The response as JSON when nothing is streamed. Refused, or an ExceptionGroup of it."""
        parts: list[list[Part]] = [[] for _ in self.jobs]
        await self._complete(self._submit(), lambda index, part: parts[index].append(part))
        choices = [self._choice(index, found) for index, found in enumerate(parts)]
        return {**self.head, "object": "text_completion", "choices": choices, "usage": self.usage()}

    async def events(self) -> AsyncIterator[str]:
        """The response as server-sent events; an error that comes too late for a status is an event too. Refused before
        the first.
        """
        found: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def tell(index: int, part: Part) -> None:
            if any(part):
                found.put_nowait(self._choice(index, [part]))

        pending, told = self._submit(), False
        task = asyncio.create_task(self._complete(pending, tell))
        task.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (choice := await found.get()) is not None:
                yield self._event({"choices": [choice]})
                told = True
            await task
            if (self.asked.stream_options or {}).get("include_usage"):
                yield self._event({"choices": [], "usage": self.usage()})
            yield "data: [DONE]\n\n"
        except ExceptionGroup as group:
            refused = first_refused(group)
            if not told:
                raise refused from None
            yield f"data: {json.dumps({'error': error(refused.status, refused.message)})}\n\n"
        finally:
            task.cancel()
            for each in pending:  # a task that was cancelled before its first step closes nothing
                each.close()

    def _submit(self) -> list[Pending]:
        """All jobs of the request at once; Refused where they cannot be done."""
        return self.pool.submit(self.model, "complete", self.jobs, self.asked.timeout)

    async def _complete(self, pending: Sequence[Pending], tell: Callable[[int, Part], None]) -> None:
        """Call `tell` with the parts of all completions as they come; the first that fails ends the others."""

        async def one(index: int) -> None:
            async for part in self._parts(index, pending[index]):
                tell(index, part)

        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(pending)):
                    group.create_task(one(index))
        finally:
            for each in pending:
                each.close()

    def usage(self) -> dict[str, int]:
        """How many tokens were given and said, as OpenAI's clients expect it."""
        return {"prompt_tokens": self.given, "completion_tokens": self.said, "total_tokens": self.given + self.said}

    def _event(self, what: dict[str, Any]) -> str:
        return f"data: {json.dumps({**self.head, 'object': 'text_completion', **what}, ensure_ascii=False)}\n\n"

    def _choice(self, index: int, parts: Sequence[Part]) -> dict[str, Any]:
        """A completion, or the next part of one, as OpenAI's clients expect it."""
        logprobs = None
        if self.asked.logprobs is not None:
            entries = [entry for part in parts for entry in part.entries]
            logprobs = {name: [entry[at] for entry in entries] for at, name in enumerate(LISTS)}
        text, why = "".join(part.text for part in parts), next((part.why for part in parts if part.why), None)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": why}

    async def _parts(self, index: int, pending: Pending) -> AsyncIterator[Part]:
        """The parts of a completion as they come."""
        text, logprobs, length, said, first = Text(self.asked.stop or []), Logprobs(), 0, 0, True
        with closing(pending):
            async for part, last in pending:
                self.said += part["said"] - said
                self.given += part["prompt"] if first and index % (self.asked.n or 1) == 0 else 0
                said, first = part["said"], False
                piece = part["echo"] + text.add(part["text"], last)
                length += len(piece)
                why = "stop" if text.stopped else part["why"] if last else ""
                yield Part(piece, why, logprobs.add(part.get("logprobs", []), length, last and not text.stopped))
                if text.stopped:
                    return


def first_refused(group: BaseExceptionGroup[Any]) -> Refused:
    """What ended the tasks of a group; it is raised where that is no refusal."""
    found: Any = group.exceptions[0]
    if not isinstance(found, Refused):
        raise found
    return found


async def embeddings(pool: WorkerPool, model: str, asked: Embeddings) -> dict[str, Any]:
    """The response to a request for embeddings, as JSON. Refused where they cannot be had."""
    found = await pool.ask(model, "embed", {"texts": asked.input}, asked.timeout)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _packed(vector) if asked.encoding_format == "base64" else vector,
        }
        for index, vector in enumerate(found["vectors"])
    ]
    usage = {"prompt_tokens": found["tokens"], "total_tokens": found["tokens"]}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
