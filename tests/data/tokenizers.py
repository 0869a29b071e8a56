"""Small tokenizers of the encoders' kinds, learned from a few invented lines."""

import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from phalanx.data.backend import BERT_SPECIALS, ROBERTA_SPECIALS, byte_level
from phalanx.data.vocabulary import train_tokenizer

WORDS = ["the", "old", "ship", "sails", "to", "a", "far", "harbour", "and", "never", "comes", "home", "über", "naïve"]


def make_tokenizers(folder: Path) -> None:
    """Write roberta.json, xlm-roberta.json, modernbert.json, and distilbert.json, which is BERT's."""
    dice = random.Random(1)
    lines = [" ".join(dice.choices(WORDS, k=9)) + "." for _ in range(300)]
    (folder / "text.txt").write_text("\n".join(lines))
    train_tokenizer([str(folder / "text.txt")], "roberta", 320, str(folder / "roberta.json"))
    train_tokenizer([str(folder / "text.txt")], "wordpiece", 300, str(folder / "distilbert.json"))

    unigram = Tokenizer(models.Unigram())
    unigram.normalizer, unigram.decoder = normalizers.NFKC(), decoders.Metaspace()
    unigram.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    specials: list[str | AddedToken] = [*ROBERTA_SPECIALS[:-1], AddedToken("<mask>", lstrip=True)]
    unigram.train_from_iterator(
        lines, trainers.UnigramTrainer(vocab_size=120, special_tokens=specials, unk_token="<unk>", show_progress=False)
    )
    unigram.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    unigram.save(str(folder / "xlm-roberta.json"))

    words = byte_level(models.BPE())
    words.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|padding|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    words.train_from_iterator(lines, trainer)
    words.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 3, 2)])  # as GPT-NeoX's
    words.add_special_tokens(
        [AddedToken("[MASK]", lstrip=True) if name == "[MASK]" else name for name in BERT_SPECIALS]
    )
    marks = [(name, words.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=marks
    )
    words.save(str(folder / "modernbert.json"))
