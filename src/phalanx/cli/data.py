"""Verbs that make and show data."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.app import CONTINUES, app, group, interruptible
from phalanx.errors import InputError

tokenizer_app = group("tokenizer", "Learn a tokenizer from text, or look at one.")
data_app = group("data", "Look into prepared data.")


@app.command()
def prepare(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, globs, here or as s3:// gs:// https://: text, .jsonl, .parquet, .arrow, and .gz "
            ".zst .xz of them; a folder saved by datasets; hf-dataset:org/name[:config][@revision]."
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            help="PREFIX of the files to write, here or as s3://…: PREFIX.bin, PREFIX.idx, PREFIX.manifest.json."
        ),
    ],
    tokenizer: Annotated[str, typer.Option(help="gpt2, bert-uncased, bert-cased, or a tokenizer.json.")],
    document: Annotated[str, typer.Option(help="What a document is in plain text: file, line or blank-line.")] = "file",
    key: Annotated[
        str, typer.Option("--key", "--column", help="Where a JSONL, Parquet or Arrow record keeps its text.")
    ] = "text",
    split: Annotated[str, typer.Option(help="Of a data set; by default train.")] = "",
    sentences: Annotated[bool, typer.Option("--sentences", help="Split documents into sentences, for BERT.")] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes every core. The output is the same.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed line.")] = False,
    append_eod: Annotated[
        bool | None,
        typer.Option(
            help="End each document with the end-of-text token, begin it as the tokenizer's template does; by "
            "default where there is such a token, and none for masks."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a set that is there.")] = False,
    encoding: Annotated[str, typer.Option(help="Of plain text, as latin-1, cp1252, utf-16.")] = "utf-8",
) -> None:
    """Turn text into token files for training: phalanx prepare books/ --out data/books --tokenizer gpt2

    The files are Megatron's .bin/.idx. An interrupted run continues when the same command is given again.
    """
    from phalanx.data.prepare import PrepareOptions, saved
    from phalanx.data.prepare import prepare as run

    options = PrepareOptions(tokenizer, document, key, sentences, workers, strict, append_eod, force, encoding, split)
    with interruptible(CONTINUES, sigterm=True, saved=lambda: saved(out)):
        run(inputs, out, options)


@app.command()
def curate(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders or globs, as for phalanx prepare.")],
    out: Annotated[Path, typer.Option(help="The folder to make: OUT/text is what is kept.")],
    workers: Annotated[int, typer.Option(min=0, help="Tasks at a time; 0 takes every core.")] = 0,
    tasks: Annotated[int, typer.Option(min=0, help="Shares of the files; 0 makes one for each, 256 at most.")] = 0,
    engine: Annotated[
        str, typer.Option(help="local, slurm (submits jobs) or ray (the cluster that RAY_ADDRESS names).")
    ] = "local",
    option: Annotated[
        list[str] | None,
        typer.Option(help="key=value for the engine, as time=4:00:00 and partition=cpu for slurm; repeat."),
    ] = None,
    document: Annotated[str, typer.Option(help="What a document is in plain text: file, line or blank-line.")] = "file",
    key: Annotated[str, typer.Option(help="Where a JSONL or Parquet record keeps its text.")] = "text",
    language: Annotated[str, typer.Option(help="The language to keep, as en, de, zh.")] = "en",
    certainty: Annotated[float, typer.Option(min=0, max=1, help="The least probability of the language.")] = 0.5,
    min_tokens: Annotated[int, typer.Option(min=0, help="Documents of fewer tokens are removed.")] = 128,
    tokenizer: Annotated[str, typer.Option(help="Whose tokens: gpt2, bert-uncased, … or a tokenizer.json.")] = "gpt2",
    jaccard: Annotated[float, typer.Option(min=0.3, max=0.99, help="Similarity from which documents are one.")] = 0.7,
    against: Annotated[
        list[Path] | None, typer.Option(help="A file of an evaluation set, beside WikiText's and LAMBADA's; repeat.")
    ] = None,
) -> None:
    """Clean, filter and deduplicate text: phalanx curate raw/ --out clean && phalanx prepare clean/text …

    Characters are mended; documents of other languages, short ones, those that share 13 words in a row with an
    evaluation set, equal and almost equal ones are removed, each kept under OUT/removed. OUT/report.md says how many by
    which rule, with samples. The same command after an interruption does only what is left.
    """
    from phalanx import processor
    from phalanx.data.inputs import find_files
    from phalanx.data.tokenize import load_tokenizer

    try:
        from phalanx.corpus.curate import curate as run
        from phalanx.corpus.curate import options_of
        from phalanx.corpus.settings import Settings
    except ModuleNotFoundError as error:
        raise InputError(f"phalanx curate needs the package {error.name}; install phalanx[data]") from None
    found = find_files(inputs, [out])
    if remote := [file for file in found if not isinstance(file, Path)]:
        raise InputError(f"{remote[0]}: curate reads files of this machine alone; copy them here first")
    files = tuple(str(file.absolute()) for file in found if isinstance(file, Path))
    load_tokenizer(tokenizer)
    settings = Settings(
        files, tasks or min(len(files), 256), document, key, language, certainty, min_tokens, tokenizer, jaccard,
        tuple(str(file.absolute()) for file in against or ()),
    )  # fmt: skip
    with interruptible(CONTINUES):
        print(*run(settings, out, engine, workers or processor.cpus(), options_of(option or [])), sep="\n")


@tokenizer_app.command("train")
def tokenizer_train(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders or globs, as for phalanx prepare.")],
    out: Annotated[Path, typer.Option(help="The tokenizer.json to write.")],
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 32768,
    kind: Annotated[
        str,
        typer.Option(
            help="bpe (byte-level, for GPT), roberta (byte-level), wordpiece (for BERT, lower case) or wordpiece-cased."
        ),
    ] = "bpe",
    key: Annotated[
        str, typer.Option("--key", "--column", help="Where a JSONL, Parquet or Arrow record keeps its text.")
    ] = "text",
    split: Annotated[str, typer.Option(help="Of a data set; by default train.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    encoding: Annotated[str, typer.Option(help="Of plain text, as latin-1, cp1252, utf-16.")] = "utf-8",
) -> None:
    """Learn a tokenizer from text: phalanx tokenizer train books/ --out books.json --vocab 8192"""
    from phalanx.data.vocabulary import Text, train_tokenizer

    trained = train_tokenizer(inputs, kind, vocab, str(out), Text(key, encoding, split), force)
    less = f"; the text has no more frequent pieces, so not {vocab:,}" if trained.vocab < vocab else ""
    print(f"{out}: {trained.vocab:,} tokens{less}")


@tokenizer_app.command("show")
def tokenizer_show(
    tokenizer: Annotated[str, typer.Argument(help="gpt2, bert-uncased, …, a tokenizer.json, or a folder with one.")],
    text: Annotated[str, typer.Argument(help="A text whose tokens to show.")] = "",
) -> None:
    """Say what a tokenizer is: kind, size, pattern, special tokens: phalanx tokenizer show runs/my/tokenizer.json"""
    from phalanx.data.describe import describe
    from phalanx.data.tokenize import load_tokenizer

    print(*describe(load_tokenizer(tokenizer), text), sep="\n")


@data_app.command("show")
def data_show(
    prefix: Annotated[str, typer.Argument(help="PREFIX of a prepared set, here or as s3://…, or module:Name.")],
    number: Annotated[int, typer.Argument(help="Which sample.", metavar="I")] = 0,
    task: Annotated[str, typer.Option(help="clm, mlm; by default mlm for a set of sentences.")] = "",
    sequence: Annotated[int, typer.Option(help="Tokens of a sample.")] = 128,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="data.KEY=value, as in a recipe.")] = None,
) -> None:
    """Decode sample I as training would see it, with its masks: phalanx data show data/books 7"""
    from phalanx.tasks.show import show

    print(show(prefix, number, task, sequence, overrides or []))


@data_app.command("verify")
def data_verify(
    prefixes: Annotated[
        list[str], typer.Argument(help="PREFIX of each prepared set, here or as s3://…", metavar="PREFIX...")
    ],
) -> None:
    """Read prepared sets whole and compare them with their checksums: phalanx data verify data/books data/web"""
    from rich.console import Console

    from phalanx.data.verify import verify

    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    damaged = False
    for prefix in prefixes:
        try:
            print(verify(prefix, console))
        except InputError as error:
            damaged = True
            print(f"phalanx: {error}", file=sys.stderr)
    if damaged:
        raise typer.Exit(2)
