"""Training of the two models, and their held-out figures before and after."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch

from phalanx import registry
from phalanx.models.build import build
from phalanx.quickstart.plan import Workspace
from phalanx.quickstart.stages import Result, Stopped
from phalanx.quickstart.text import data
from phalanx.run.folder import RunFolder
from phalanx.tasks.run import train
from phalanx.tasks.score import score
from phalanx.tasks.sources import tokenizer_of
from phalanx.train.evaluate import evaluate


def learn_gpt(workspace: Workspace) -> Result:
    """Train the GPT into runs/gpt."""
    return _learn(workspace, "gpt", workspace.plan.gpt)


def describe_gpt(result: Result) -> Iterator[str]:
    """Yield the perplexities in plain words."""
    before, after = result["before"], result["after"]
    yield (
        f"Held-out perplexity: {before['perplexity']:,.0f} before, {after['perplexity']:,.1f} after. That is: of "
        f"{result['vocab']:,} pieces it is as unsure as a fair choice among {after['perplexity']:,.0f}."
    )
    yield f"The held-out book takes {after['bits_per_byte']:.2f} bits a letter, where plain ASCII text takes 8."
    yield _where(result)


def learn_bert(workspace: Workspace) -> Result:
    """Train the BERT into runs/bert."""
    return _learn(workspace, "bert", workspace.plan.bert)


def describe_bert(result: Result) -> Iterator[str]:
    """Yield the perplexities and accuracies in plain words."""
    before, after = result["before"], result["after"]
    yield f"Held-out perplexity of hidden pieces: {before['perplexity']:,.0f} before, {after['perplexity']:,.1f} after."
    yield f"It guesses {after['mlm_accuracy']:.1%} of them exactly; untrained it guessed {before['mlm_accuracy']:.1%}."
    yield _where(result)


def words(workspace: Workspace, model: str, over: tuple[str, ...]) -> list[str]:
    """Return the overrides of a run on the quickstart's data: its sets, then `over`."""
    sets = {"train": data(workspace, model, "train"), "valid": data(workspace, model, "held-out")}
    return [*(f"data.{key}={json.dumps([prefix])}" for key, prefix in sets.items()), *over]


def run_folder(workspace: Workspace, name: str) -> Path:
    """Return the folder of the run `name`."""
    return workspace.folder / "runs" / name


def _learn(workspace: Workspace, name: str, over: tuple[str, ...]) -> Result:
    run = run_folder(workspace, name)
    if stopped_by := train(f"{name}-tiny", words(workspace, name, over), run):
        raise Stopped(stopped_by)
    before = _untrained(run, workspace.plan.evaluate)
    after = score(run, limit=workspace.plan.evaluate).values
    config = RunFolder.open(run).config()
    tokens = config.train.steps * config.train.batch * config.data.sequence
    return {"before": before, "after": after, "vocab": config.model.vocab, "tokens": tokens, "at": str(run)}


def _untrained(run: Path, limit: int) -> dict[str, float]:
    """Return the held-out figures of the model before its first step: its weights are a function of the seed."""
    config = RunFolder.open(run).config()
    task = registry.TASKS.find(config.task)(config, tokenizer_of(config.data))
    model = build(config.model, config.train.seed, torch.device("cpu"))
    assert task.valid
    figures = evaluate(model, task, task.valid, config, limit)
    assert math.isfinite(figures["loss"])
    return figures


def _where(result: Result) -> str:
    return f"It read {result['tokens']:,} tokens. Model, settings and curves are in {result['at']}/"
