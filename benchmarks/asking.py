"""What the measurements of serving share: small models with random weights, questions cut from a novel, a server's
process and its memory, and a client that costs little beside it.
"""

import asyncio
import json
import lzma
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

WIDE, LAYERS, HEADS = 384, 6, 6
PATHS = {"answer": "/answer", "classify": "/classify", "embed": "/embed", "complete": "/v1/completions",
         "stream": "/v1/completions"}  # fmt: skip
MIX = {"answer": 3, "classify": 3, "embed": 2, "complete": 1, "stream": 1}
TOKENS = 16  # of a completion
PATIENCE = 120.0  # seconds in which an answer must have come


def make(folder: Path, width: int = WIDE, layers: int = LAYERS, heads: int = HEADS) -> list[Path]:
    """Hugging Face folders of models of a size: span, classes, plain and gpt."""
    import torch
    import transformers as hf

    from phalanx.data.tokenize import load_tokenizer

    torch.manual_seed(0)
    wide: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    wide3 = wide | {"num_labels": 3}
    bert: Any = hf.BertConfig(intermediate_size=4 * width, initializer_range=0.04, **wide3)
    span: Any = hf.BertConfig(intermediate_size=4 * width, initializer_range=0.04, **wide)
    gpt: Any = hf.GPT2Config(n_embd=width, n_layer=layers, n_head=heads)
    made = {
        "span": hf.BertForQuestionAnswering(span),
        "classes": hf.BertForSequenceClassification(bert),
        "plain": hf.BertForMaskedLM(bert),
        "gpt": hf.GPT2LMHeadModel(gpt),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tokenizer, facts = "gpt2", {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
        if name != "gpt":
            tokenizer = "bert-uncased"
            facts = {"tokenizer_class": "BertTokenizer", "pad_token": "[PAD]", "unk_token": "[UNK]"}
        (folder / name / "tokenizer.json").write_text(load_tokenizer(tokenizer).json())
        (folder / name / "tokenizer_config.json").write_text(json.dumps(facts | {"model_max_length": 512}))
    return [folder / name for name in made]


class Questions:
    """Drawn one after another: a kind, and what is asked."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        novel = files("phalanx") / "assets" / "novels" / "Doyle_Lost_1912.txt.xz"
        self.words = lzma.decompress(novel.read_bytes()).decode().split()

    def text(self, least: int, most: int) -> str:
        """Words that follow each other, shorter texts more often than long ones."""
        count = int(least * (most / least) ** self.draw.random())
        start = self.draw.randrange(len(self.words) - count)
        return " ".join(self.words[start : start + count])

    def next(self) -> tuple[str, dict[str, Any]]:
        """By the mix."""
        (kind,) = self.draw.choices([*MIX], [*MIX.values()])
        return kind, self.of(kind)

    def of(self, kind: str) -> dict[str, Any]:
        """The body of a request."""
        if kind == "answer":
            return {"question": self.text(5, 15) + "?", "context": self.text(40, 280)}
        if kind == "classify":
            return {"text": self.text(8, 120)}
        if kind == "embed":
            return {"texts": [self.text(8, 60) for _ in range(4)]}
        asked = {"prompt": self.text(8, 60), "max_tokens": TOKENS}
        return asked | {"stream": True, "stream_options": {"include_usage": True}} if kind == "stream" else asked


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection, kept between requests; errors of transport are the caller's."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, path: str, body: dict[str, Any] | bytes) -> Reply:
        """A POST, and all of its answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            async with asyncio.timeout(PATIENCE):
                await self.send(path, raw)
                return await self._answer()
        except BaseException:
            self.leave()
            raise

    async def send(self, path: str, raw: bytes) -> asyncio.StreamReader:
        """A POST; its answer is left to read."""
        if self.writer is None or self.reader is None or self.reader.at_eof():
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}"
        self.writer.write(f"{head}\r\n\r\n".encode() + raw)
        await self.writer.drain()
        return self.reader

    def leave(self) -> None:
        """Close, whatever is under way."""
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None

    async def _answer(self) -> Reply:
        assert self.reader is not None
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        parts = []
        if "content-length" in headers:
            parts.append(await self.reader.readexactly(int(headers["content-length"])))
        else:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                parts.append((await self.reader.readexactly(size + 2))[:-2])
            await self.reader.readexactly(2)
        if headers.get("connection") == "close":
            self.leave()
        return Reply(int(first.split()[1]), headers, b"".join(parts))


class Server:
    """A process that serves, and its memory. `words` follow python's name, PORT among them."""

    def __init__(self, name: str, words: Sequence[object], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.name, self.log = name, log
        command = [sys.executable, *(str(word).replace("PORT", str(self.port)) for word in words)]
        with log.open("w") as told:
            self.process = subprocess.Popen(command, stdout=told, stderr=told)

    async def until_ready(self, seconds: float = 600) -> None:
        """The models are loaded."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended:\n{self.log.read_text()[-2000:]}")
            if await self.get("/ready") is not None:
                return
            await asyncio.sleep(0.3)
        raise SystemExit(f"{self.name} does not get ready")

    async def get(self, path: str) -> str | None:
        """What is there; None where the answer is not 200."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
            writer.close()
        except OSError:
            return None
        return body if head.split()[1:2] == ["200"] else None

    def family(self) -> list[int]:
        """Its process and those it started."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended meanwhile
                continue
        found = [self.process.pid]
        for process in found:  # grows
            found += [child for child, parent in parents.items() if parent == process]
        return found

    def memory(self) -> float:
        """Resident, in MiB, of all of them."""
        pages = 0
        for process in self.family():
            try:
                pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
            except OSError:
                continue
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> None:
        """As an operator would."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
