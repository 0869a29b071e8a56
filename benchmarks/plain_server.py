"""The plainest server of the same models: FastAPI that calls Hugging Face's, one request after another.

    python -m benchmarks.plain_server FOLDER PORT

FOLDER holds span, classes, plain and gpt, as `benchmarks.load` makes them.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from transformers import (
    AsyncTextIteratorStreamer,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)


class Question(BaseModel):
    """Of a text."""

    question: str
    context: str


class Classify(BaseModel):
    """A text."""

    text: str


class Embed(BaseModel):
    """Texts."""

    texts: list[str]


class Completion(BaseModel):
    """OpenAI's, as much of it as is asked here."""

    prompt: str
    max_tokens: int = 16
    stream: bool = False


class Models:
    """Each with its tokenizer."""

    def __init__(self, folder: Path) -> None:
        def loaded(auto: Any, name: str) -> tuple[Any, Any]:
            return AutoTokenizer.from_pretrained(folder / name), auto.from_pretrained(folder / name)

        self.span = loaded(AutoModelForQuestionAnswering, "span")
        self.classes = loaded(AutoModelForSequenceClassification, "classes")
        self.plain = loaded(AutoModel, "plain")
        self.gpt = loaded(AutoModelForCausalLM, "gpt")

    @torch.inference_mode()
    def answer(self, asked: Question) -> dict[str, Any]:
        """The likeliest start and the likeliest stop after it."""
        tokenizer, model = self.span
        row = tokenizer(asked.question, asked.context, truncation="only_second", max_length=512,
                        return_offsets_mapping=True, return_tensors="pt")  # fmt: skip
        places = row.pop("offset_mapping")[0].tolist()
        found = model(**row)
        start = int(found.start_logits[0].argmax())
        stop = start + int(found.end_logits[0, start:].argmax())
        first, last = places[start][0], places[stop][1]
        return {"text": asked.context[first:last], "start": first, "stop": last}

    @torch.inference_mode()
    def classify(self, asked: Classify) -> dict[str, Any]:
        """The probability of each class."""
        tokenizer, model = self.classes
        chances = model(**tokenizer(asked.text, truncation=True, return_tensors="pt")).logits[0].softmax(-1).tolist()
        return {"label": chances.index(max(chances)), "probabilities": chances}

    @torch.inference_mode()
    def embed(self, asked: Embed) -> dict[str, Any]:
        """Means of length 1, text by text."""
        tokenizer, model = self.plain
        means = [model(**tokenizer(text, truncation=True, return_tensors="pt"))[0].mean(1)[0] for text in asked.texts]
        return {"vectors": [(mean / mean.norm()).tolist() for mean in means]}

    @torch.inference_mode()
    def complete(self, asked: Completion, streamer: Any = None) -> dict[str, Any]:
        """A text drawn token by token."""
        tokenizer, model = self.gpt
        row = tokenizer(asked.prompt, return_tensors="pt")
        given = row["input_ids"].shape[1]
        made = model.generate(**row, max_new_tokens=asked.max_tokens, do_sample=True, streamer=streamer,
                              pad_token_id=tokenizer.eos_token_id)[0]  # fmt: skip
        text = tokenizer.decode(made[given:])
        return {"choices": [{"index": 0, "text": text}], "usage": {"completion_tokens": len(made) - given}}


def make(models: Models) -> FastAPI:
    """The app."""
    app, one_by_one = FastAPI(), asyncio.Lock()

    async def alone(call: Callable[..., Any], *words: Any) -> Any:
        async with one_by_one:
            return await asyncio.to_thread(call, *words)

    @app.get("/ready")
    async def ready() -> Any:
        return {"ready": True}

    @app.post("/answer")
    async def answer(asked: Question) -> Any:
        return await alone(models.answer, asked)

    @app.post("/classify")
    async def classify(asked: Classify) -> Any:
        return await alone(models.classify, asked)

    @app.post("/embed")
    async def embed(asked: Embed) -> Any:
        return await alone(models.embed, asked)

    @app.post("/v1/completions")
    async def complete(asked: Completion) -> Any:
        if not asked.stream:
            return await alone(models.complete, asked)

        async def events() -> AsyncIterator[str]:
            async with one_by_one:
                streamer = AsyncTextIteratorStreamer(models.gpt[0], skip_prompt=True)
                made = asyncio.create_task(asyncio.to_thread(models.complete, asked, streamer))
                async for text in streamer:
                    yield f"data: {json.dumps({'choices': [{'index': 0, 'text': text}]})}\n\n"
                yield f"data: {json.dumps({'choices': [], 'usage': (await made)['usage']})}\n\ndata: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    uvicorn.run(make(Models(Path(sys.argv[1]))), port=int(sys.argv[2]), log_level="warning")
