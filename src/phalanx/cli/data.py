"""Verbs that make and show data."""

from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.app import app, group

tokenizer_app = group("tokenizer", "Train and look into tokenizers.")
data_app = group("data", "Look into prepared data.")


@app.command()
def prepare(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders or globs: text, .jsonl, .parquet; .gz .zst .xz.")],
    out: Annotated[
        str, typer.Option(help="PREFIX of the files to write: PREFIX.bin, PREFIX.idx, PREFIX.manifest.json.")
    ],
    tokenizer: Annotated[str, typer.Option(help="gpt2, bert-uncased, bert-cased, or a tokenizer.json.")],
    document: Annotated[str, typer.Option(help="What a document is in plain text: file, line or blank-line.")] = "file",
    key: Annotated[str, typer.Option(help="Where a JSONL or Parquet record keeps its text.")] = "text",
    sentences: Annotated[bool, typer.Option("--sentences", help="Split documents into sentences, for BERT.")] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes every core. The output is the same.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed line.")] = False,
    append_eod: Annotated[
        bool | None, typer.Option(help="End each document with the end-of-text token; by default where there is one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a set that is there.")] = False,
) -> None:
    """Turn text into token files for training: phalanx prepare books/ --out data/books --tokenizer gpt2

    The files are Megatron's .bin/.idx. An interrupted run continues when the same command is given again.
    """
    from phalanx.data.prepare import PrepareOptions
    from phalanx.data.prepare import prepare as run

    run(inputs, out, PrepareOptions(tokenizer, document, key, sentences, workers, strict, append_eod, force))


@tokenizer_app.command("train")
def tokenizer_train(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders or globs, as for phalanx prepare.")],
    out: Annotated[Path, typer.Option(help="The tokenizer.json to write.")],
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 32768,
    kind: Annotated[
        str, typer.Option(help="bpe (byte-level, for GPT), wordpiece (for BERT, lower case) or wordpiece-cased.")
    ] = "bpe",
    key: Annotated[str, typer.Option(help="Where a JSONL or Parquet record keeps its text.")] = "text",
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Learn a tokenizer from text: phalanx tokenizer train books/ --out books.json --vocab 8192"""
    from phalanx.data.vocabulary import train_tokenizer

    trained = train_tokenizer(inputs, kind, vocab, str(out), key, force)
    print(f"{out}: {trained.vocab} tokens")


@data_app.command("show")
def data_show(
    prefix: Annotated[str, typer.Argument(help="PREFIX of a prepared set.")],
    number: Annotated[int, typer.Argument(help="Which sample.", metavar="I")] = 0,
    task: Annotated[str, typer.Option(help="clm, mlm; by default mlm for a set of sentences.")] = "",
    sequence: Annotated[int, typer.Option(help="Tokens of a sample.")] = 128,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="data.KEY=value, as in a recipe.")] = None,
) -> None:
    """Decode sample I as training would see it, with its masks: phalanx data show data/books 7"""
    from phalanx.tasks.show import show

    print(show(prefix, number, task, sequence, overrides or []))
