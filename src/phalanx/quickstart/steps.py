"""`phalanx quickstart`: its stages in order, what each is for, and the end."""

import resource
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from phalanx import recipe
from phalanx.quickstart import learn, page, resume, text, use
from phalanx.quickstart.plan import FULL, MASKED, PROMPTS, TEMPERATURE, TOP_P, Plan, Workspace
from phalanx.quickstart.stages import Stage, Stopped, run
from phalanx.units import duration


def quickstart(folder: Path, plan: Plan = FULL) -> None:
    """Do all stages in `folder`, or what is left of them. Ends the process with 128 + the signal that stopped it."""
    begun, console = time.monotonic(), Console(highlight=False)
    console.print(Text(f"Phalanx quickstart: a GPT and a BERT learn English, in {folder}/", style="bold"))
    try:
        run(stages(plan), Workspace(folder, plan, {}), console)
    except Stopped as stopped:
        console.print(Text("\nStopped, and saved. The same command goes on from here."), soft_wrap=True)
        raise SystemExit(128 + stopped.signal) from None
    memory = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    console.print(Text(f"\nDone in {duration(time.monotonic() - begun)}", style="bold"), end="")
    console.print(f" with at most {memory / 2**20:.1f} GiB of memory. Everything is in {folder}/", soft_wrap=True)
    console.print(f"See {folder / page.FILE} for the pictures, then try a text of your own, a folder of .txt files:\n")
    for command in page.NEXT:
        console.print(Text(f"  {command}"), soft_wrap=True)


def stages(plan: Plan) -> list[Stage]:
    """Return all stages of a quickstart of this size, in order."""
    gpt, bert = recipe.load_mapping("gpt-tiny", plan.gpt), recipe.load_mapping("bert-tiny", plan.bert)
    interrupted = recipe.load_mapping("gpt-tiny", (*plan.gpt, *plan.interrupted))

    return [
        Stage(
            "text", "Unpack the text",
            "A language model learns by reading. Here are novels in the public domain, and one that is kept apart.",
            text.unpack, text.describe_unpacked, text.checksums(plan), owns=("text",),
        ),
        Stage(
            "tokenizers", "Learn two tokenizers",
            "Models read numbers. A tokenizer cuts text into frequent pieces; GPT and BERT cut each in its own way.",
            text.learn_tokenizers, text.describe_tokenizers, plan.vocab, ("text",), ("tokenizers",),
        ),
        Stage(
            "data", "Prepare the data",
            "All text becomes token files that training maps into memory, however large they are.",
            text.prepare_sets, text.describe_sets, "", ("tokenizers",), ("data",),
        ),
        Stage(
            "gpt", "Train a small GPT",
            "It learns to guess the next piece from those before it. Perplexity is how many pieces it wavers between.",
            learn.learn_gpt, learn.describe_gpt, [gpt, plan.evaluate], ("data",), ("runs/gpt",),
        ),
        Stage(
            "samples", "Let it write",
            "Guessing again and again is writing. Three prompts, fixed in advance; the first draw of each.",
            use.write_samples, use.describe_samples, [PROMPTS, TEMPERATURE, TOP_P, plan.write], ("gpt",),
        ),
        Stage(
            "bert", "Train a small BERT",
            "It learns to guess hidden pieces from both sides.",
            learn.learn_bert, learn.describe_bert, [bert, plan.evaluate], ("data",), ("runs/bert",),
        ),
        Stage(
            "masks", "Let it fill gaps",
            "Three sentences, fixed in advance, each with a hidden word; its five likeliest guesses.",
            use.fill_masks, use.describe_masks, [MASKED], ("bert",),
        ),
        Stage(
            "resume", "Interrupt a run and resume it",
            "Machines fail and clusters reclaim them. A run that was stopped must go on as if it had not been.",
            resume.interrupt_and_resume, resume.describe_resumed, [interrupted, plan.cut], ("data",), resume.OWNS,
        ),
        Stage(
            "report", "Write the report",
            "The curves as pictures, and all of the above, on one page.",
            page.write_page, page.describe_page, page.NEXT, ("samples", "masks", "resume"), (page.FILE,),
        ),
    ]  # fmt: skip
