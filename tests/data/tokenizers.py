"""Small tokenizers of the encoders' kinds, learned from a few invented lines."""

import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from phalanx.data.backend import ROBERTA_SPECIALS
from phalanx.data.vocabulary import train_tokenizer

WORDS = ["the", "old", "ship", "sails", "to", "a", "far", "harbour", "and", "never", "comes", "home", "über", "naïve"]


def make_tokenizers(folder: Path) -> None:
    """Write roberta.json, xlm-roberta.json and distilbert.json, which is BERT's."""
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
