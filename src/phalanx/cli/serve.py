"""The verb that serves."""

from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.app import app
from phalanx.errors import InputError


@app.command()
def serve(
    models: Annotated[
        list[str],
        typer.Argument(help="Run folders, hf:FOLDER or hf:org/name; NAME=… gives a name.", metavar="MODEL..."),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port.")] = 8000,
    host: Annotated[str, typer.Option(help="The address; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    backend: Annotated[
        str,
        typer.Option(
            help="auto (the fastest here), torch, native, module:Name; for BERT onnxruntime, openvino, tensorrt."
        ),
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 (GPU) or int8 (CPU).")] = "fp32",
    queue: Annotated[
        int, typer.Option(min=1, help="Requests under way at most; more get 429 and when to retry.")
    ] = 256,
    budget: Annotated[float, typer.Option(min=0.01, help="Seconds that a request may take, at most.")] = 30.0,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request, at most.")] = 4 << 20,
    api_key_file: Annotated[Path | None, typer.Option(help="Keys, one a line; requests then need one.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Computing processes, without GPUs; on GPUs one for each.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each; 0 shares out the cores.")] = 0,
) -> None:
    """Serve models over HTTP: phalanx serve runs/gpt runs/bert-squad

    A page at / to try them, /v1/completions and /v1/embeddings for OpenAI's clients, /answer /classify /fill /embed,
    /metrics for Prometheus, /docs for all of it.
    """
    try:
        from phalanx.serve.server import Options, specs
        from phalanx.serve.server import serve as run
    except ModuleNotFoundError as error:
        raise InputError(f"phalanx serve needs the package {error.name}; install phalanx[serve]") from None
    named = specs(models, backend, precision)
    run(named, Options(host, port, queue, budget, max_body, api_key_file, threads, workers))
