"""From novels to tokens: the text, two tokenizers, four prepared sets."""

import hashlib
import lzma
from collections.abc import Iterator

from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.data.vocabulary import train_tokenizer
from phalanx.quickstart.plan import NOVELS, Plan, Workspace
from phalanx.quickstart.stages import Result

PARTS = ("train", "held-out")
KINDS = {"gpt": "bpe", "bert": "wordpiece"}
EXAMPLE = "The nightingale had already forgotten everything."


def checksums(plan: Plan) -> dict[str, str]:
    """Return the packed novels' SHA-256, by name."""
    return {name: hashlib.sha256(_packed(name)).hexdigest() for name in (*plan.novels, plan.held_out)}


def unpack(workspace: Workspace) -> Result:
    """Write text/train and text/held-out: a novel a file."""
    words: dict[str, int] = {}
    for part, names in zip(PARTS, (workspace.plan.novels, (workspace.plan.held_out,)), strict=True):
        folder = workspace.folder / "text" / part
        folder.mkdir(parents=True, exist_ok=True)
        texts = {name: lzma.decompress(_packed(name)) for name in names}
        for name, text in texts.items():
            (folder / f"{name}.txt").write_bytes(text)
        words[part] = sum(len(text.split()) for text in texts.values())
    return {"novels": len(workspace.plan.novels), "words": words, "at": str(workspace.folder / "text")}


def describe_unpacked(result: Result) -> Iterator[str]:
    """Yield where the text lies, and how much it is."""
    words = result["words"]
    yield f"{result['novels']} novels with {words['train']:,} words to learn from: {result['at']}/train"
    yield f"1 novel with {words['held-out']:,} words that no model learns from, to measure on: {result['at']}/held-out"


def learn_tokenizers(workspace: Workspace) -> Result:
    """Write tokenizers/gpt.json and bert.json, learned from the training text alone."""
    result: Result = {}
    for model, kind in KINDS.items():
        path = workspace.folder / "tokenizers" / f"{model}.json"
        source = str(workspace.folder / "text" / "train")
        tokenizer = train_tokenizer([source], kind, workspace.plan.vocab, str(path), force=True)
        pieces = [tokenizer.decode([i]).strip() for i in tokenizer.encode(EXAMPLE)]
        result[model] = {"vocab": tokenizer.vocab, "pieces": pieces, "at": str(path)}
    return result


def describe_tokenizers(result: Result) -> Iterator[str]:
    """Yield a sentence cut up by both tokenizers."""
    for model, title in (("gpt", "GPT, byte-level BPE"), ("bert", "BERT, WordPiece     ")):
        tokenizer = result[model]
        yield f"{title}: {tokenizer['vocab']:,} pieces in {tokenizer['at']}; it reads {' · '.join(tokenizer['pieces'])}"


def prepare_sets(workspace: Workspace) -> Result:
    """Prepare data/gpt-train, gpt-held-out, bert-train and bert-held-out."""
    (workspace.folder / "data").mkdir(exist_ok=True)
    tokens: dict[str, int] = {}
    for model in KINDS:
        tokenizer = str(workspace.folder / "tokenizers" / f"{model}.json")
        for part in PARTS:
            options = PrepareOptions(tokenizer=tokenizer, sentences=model == "bert")
            source, prefix = workspace.folder / "text" / part, data(workspace, model, part)
            tokens[f"{model}-{part}"] = prepare([str(source)], prefix, options).tokens
    return {"tokens": tokens, "at": str(workspace.folder / "data")}


def describe_sets(result: Result) -> Iterator[str]:
    """Yield which sets were written, and how large they are."""
    tokens = result["tokens"]
    yield f"For GPT, whole books: {tokens['gpt-train']:,} tokens to learn from, {tokens['gpt-held-out']:,} held out."
    yield f"For BERT, sentence by sentence: {tokens['bert-train']:,} and {tokens['bert-held-out']:,}."
    yield f"They are Megatron's .bin/.idx files. Look into them: phalanx data show {result['at']}/bert-train"


def data(workspace: Workspace, model: str, part: str) -> str:
    """Return the PREFIX of a prepared set."""
    return str(workspace.folder / "data" / f"{model}-{part}")


def _packed(name: str) -> bytes:
    return (NOVELS / f"{name}.txt.xz").read_bytes()
