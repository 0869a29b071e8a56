"""Tokenizers as model families have them, learned in a moment from the bundled novels, and strings to try them on."""

import json
import lzma
import random
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from phalanx.data.backend import BERT_SPECIALS, mark, word_piece
from phalanx.data.fastpath import byte_letters
from phalanx.data.pretokens import GPT4O, LLAMA3, QWEN2, TEKKEN

CONTROL = "\x00\x07\x1b\x7f\x80\x9f\u200b\u200d\u202e\ufeff\ufffd\U000e0041"
BLANKS = " \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u2003\u2028\u202f\u3000"
MARKS = "\u0301\u0323\u0327\u0338\u0345\u0591\u093c\u0e49\u1161\u11a8\u20dd\u3099\ua9c0\U0001d165"
COMPOSED = "éǆÅ\u212bﬁΐ\u0958각\u1100가\u0344\u0f43ż̇"
WORDS = [
    "the", "Hello", "naïve", "don't", "I'LL", "we'Ve", "O'ſ", "mañana", "Straße", "İstanbul", "привет", "мир", "Ελλάδα",
    "שלום", "عربي", "हिन्दी", "ไทย", "日本語", "漢字", "한국어", "x=1;", "http://a.b/c?d=e",
]  # fmt: skip
EMOJI = ["👩\u200d👩\u200d👧\u200d👦", "🏳️\u200d🌈", "👍🏽", "🇫🇷", "☎️", "🫠"]
DIGITS = "0123456789٣३½Ⅷ²𝟘"
NAMES = ["<s>", "</s>", "<|endoftext|>", "<|begin_of_text|>", "<tool_call>", "<think>", "[MASK]", "<bos>", "▁", "##a"]
PUNCTUATION = "'\"!?.,;:-_/\\()[]{}<>|"


def strings(count: int, seed: int = 0) -> list[str]:
    """Random texts: words, numbers and names of tokens among code points of every plane, controls, marks that combine,
    private use, emoji and runs of blanks. No surrogates.
    """
    dice = random.Random(seed)

    def code_point() -> str:
        while 0xD800 <= (i := dice.randrange(dice.choice((0x80, 0x800, 0x3000, 0x10000, 0x32000, 0x110000)))) < 0xE000:
            pass
        return chr(i)

    kinds: list[tuple[int, Callable[[], str]]] = [
        (6, lambda: dice.choice(WORDS)), (5, lambda: " "), (4, code_point),
        (2, lambda: "".join(dice.choices(BLANKS, [9, *[1] * (len(BLANKS) - 1)], k=dice.randint(1, 6)))),
        (2, lambda: dice.choice(BLANKS) * dice.randint(1, 9)), (2, lambda: dice.choice(MARKS)),
        (2, lambda: "".join(dice.choices(DIGITS, k=dice.randint(1, 8)))), (1, lambda: dice.choice(COMPOSED)),
        (1, lambda: unicodedata.normalize("NFD", dice.choice(WORDS))), (1, lambda: dice.choice(CONTROL)),
        (1, lambda: dice.choice(EMOJI)), (1, lambda: dice.choice(NAMES)), (1, lambda: dice.choice(PUNCTUATION)),
        (1, lambda: chr(dice.randrange(0xE000, 0xF900))),
    ]  # fmt: skip
    weights, makers = zip(*kinds, strict=True)
    return ["".join(make() for make in dice.choices(makers, weights, k=dice.randint(0, 40))) for _ in range(count)]


@cache
def novel() -> list[str]:
    """The lines of a part of a bundled novel, with what the other languages have."""
    packed = sorted(files("phalanx").joinpath("assets", "novels").iterdir(), key=str)[0].read_bytes()
    return [*lzma.decompress(packed).decode()[:200_000].splitlines(True), *WORDS * 3]


def byte_level(pattern: str, normalizer: Any = None, removed: bool = False) -> Backend:
    """Byte-level BPE that cuts texts by a pattern."""
    backend = Backend(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), "removed" if removed else "isolated", removed)
    words: Any = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence(words), decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(novel(), trainer)
    return backend


def llama3() -> Backend:
    """As files that were made from tiktoken's ids: all merges of each token, whole words looked up first, of which some
    are of no merges; a token that begins every text.
    """
    backend = byte_level(LLAMA3)
    vocab = backend.get_vocab()
    vocab |= {word: len(vocab) + i for i, word in enumerate(("Ġzqxj", "qjzzq"))}
    merges = [
        (token[:i], token[i:]) for token in sorted(vocab, key=vocab.__getitem__) for i in range(1, len(token))
        if token[:i] in vocab and token[i:] in vocab
    ]  # fmt: skip
    backend.model = models.BPE(vocab, merges, ignore_merges=True)
    backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    template = processors.TemplateProcessing(
        single=["<|begin_of_text|>", "$A"], special_tokens=[("<|begin_of_text|>", len(vocab))]
    )
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return backend


def qwen() -> Backend:
    """With NFC, and tokens that are not special."""
    backend = byte_level(QWEN2, normalizers.NFC())
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.add_tokens([AddedToken(name, normalized=False) for name in ("<tool_call>", "<think>", "</think>")])
    return backend


def gpt4o() -> Backend:
    """A word ends before a capital letter."""
    backend = byte_level(GPT4O, removed=True)
    backend.add_special_tokens(["<|endoftext|>"])
    return backend


def smollm() -> Backend:
    """GPT-2's pattern, after each digit was set apart; some bytes are no tokens."""
    backend = byte_level(QWEN2)
    facts = json.loads(backend.to_str())
    for letter, byte in byte_letters().items():
        if byte in (4, 0x1D, *range(0xC0, 0xC4), 0xE1, *range(0xF1, 0x100)):
            del facts["model"]["vocab"][letter]
    vocab = facts["model"]["vocab"]
    facts["model"]["merges"] = [pair for pair in facts["model"]["merges"] if vocab.keys() >= {*pair, "".join(pair)}]
    backend = Backend.from_str(json.dumps(facts))
    words: Any = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(words)
    backend.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    backend.add_tokens(["<think>"])
    return backend


def nemo() -> Backend:
    """As GPT-4o's, but for digits and contractions."""
    backend = byte_level(TEKKEN)
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


def gemma() -> Backend:
    """BPE of characters, with bytes for those that are unknown."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Backend(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=specials, show_progress=False)
    backend.train_from_iterator((word for line in novel() for word in line.split()), trainer)
    facts: Any = json.loads(backend.to_str())
    facts["added_tokens"] = facts["added_tokens"][:4]
    backend = Backend.from_str(json.dumps(facts))
    backend.post_processor = processors.TemplateProcessing(single=["<bos>", "$A"], special_tokens=[("<bos>", 2)])
    return backend


def unigram() -> Backend:
    """As XLM-R and T5 have it."""
    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=800, special_tokens=specials, unk_token="<unk>", show_progress=False, n_sub_iterations=1
    )
    backend.train_from_iterator(novel()[:600], trainer)
    around = [("<s>", 0), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing(single=["<s>", "$A", "</s>"], special_tokens=around)
    return backend


def wordpiece() -> Backend:
    """As BERT has it."""
    backend = word_piece(models.WordPiece(unk_token="[UNK]"), lowercase=True)
    trainer = trainers.WordPieceTrainer(vocab_size=1200, special_tokens=[*BERT_SPECIALS], show_progress=False)
    backend.train_from_iterator(novel(), trainer)
    return mark(backend, BERT_SPECIALS)


FAMILIES: dict[str, Callable[[], Backend]] = {
    "llama3": llama3, "qwen": qwen, "gpt4o": gpt4o, "nemo": nemo, "smollm": smollm, "gemma": gemma, "unigram": unigram,
    "wordpiece": wordpiece,
}  # fmt: skip
