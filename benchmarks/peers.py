"""How others answer questions with a BERT of a Hugging Face folder: each a function of rows of tokens, made the way its
own documentation says. Most expect rectangles: of rows of many lengths those of about one length go together, which is
faster than to fill all up to the longest.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

Rows = Sequence[np.ndarray]
Answers = list[np.ndarray]
Program = Callable[[Rows], Answers]  # float32 [length, 2] of each row: scores of where the answer begins and ends


def rectangle(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, mask and segments: int64 [rows, longest]."""
    longest = max(map(len, rows))
    tokens = np.zeros((len(rows), longest), np.int64)
    mask, segment = np.zeros_like(tokens), np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)], segment[i, len(row) // 2 : len(row)] = row, 1, 1
    return tokens, mask, segment


def cut(start: Sequence[np.ndarray], end: Sequence[np.ndarray], rows: Rows) -> Answers:
    """Without what was filled up."""
    return [np.stack([s[: len(row)], e[: len(row)]], -1) for s, e, row in zip(start, end, rows, strict=True)]


STEP = 16  # tokens to which lengths are rounded up


def by_length(program: Program) -> Program:
    """A program of rectangles on rows of about one length at a time."""

    def run(rows: Rows) -> Answers:
        found: list[Any] = [None] * len(rows)
        groups: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(-(-len(row) // STEP), []).append(i)
        for group in groups.values():
            for i, answer in zip(group, program([rows[i] for i in group]), strict=True):
                found[i] = answer
        return found

    return run


def hugging_face(folder: Path, compiled: bool, number: torch.dtype = torch.float32) -> Program:
    """Eager, or compiled for each shape; on a GPU with CUDA graphs."""
    from transformers import BertForQuestionAnswering

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = BertForQuestionAnswering.from_pretrained(folder)
    model = model.to(device, number).eval()
    how: dict[str, Any] = {"mode": "reduce-overhead"} if device.type == "cuda" else {"options": {"freezing": True}}
    call = torch.compile(model, dynamic=False, **how) if compiled else model

    def run(rows: Rows) -> Answers:
        tokens, mask, segment = (torch.from_numpy(x).to(device) for x in rectangle(rows))
        with torch.inference_mode(not compiled), torch.no_grad():
            found = call(input_ids=tokens, attention_mask=mask, token_type_ids=segment)
        return cut(found.start_logits.float().cpu().numpy(), found.end_logits.float().cpu().numpy(), rows)

    return run


def onnx_file(folder: Path) -> Path:
    """Hugging Face's model as an ONNX graph, with onnxruntime's own fusions for BERT."""
    from onnxruntime.transformers import optimizer
    from transformers import BertForQuestionAnswering

    file = folder / "fused.onnx"
    if not file.exists():
        model: Any = BertForQuestionAnswering.from_pretrained(folder, attn_implementation="eager")
        names = ["input_ids", "attention_mask", "token_type_ids"]
        example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)
        axes = {name: {0: "batch", 1: "sequence"} for name in [*names, "start", "end"]}
        plain = folder / "plain.onnx"
        torch.onnx.export(model, example, str(plain), input_names=names, output_names=["start", "end"],
                          dynamic_axes=axes, opset_version=17, dynamo=False)  # fmt: skip
        facts = model.config
        made = optimizer.optimize_model(
            str(plain), "bert", num_heads=facts.num_attention_heads, hidden_size=facts.hidden_size, opt_level=1
        )
        made.save_model_to_file(str(file))
    return file


def onnxruntime(folder: Path, int8: bool) -> Program:
    """Its fused graph; int8 by its dynamic quantisation, channel by channel."""
    import onnxruntime as ort

    file = onnx_file(folder)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        rounded = folder / "int8.onnx"
        if not rounded.exists():
            from onnx import TensorProto

            known = {"DefaultTensorType": TensorProto.FLOAT}  # which it cannot infer through its fused operators
            quantize_dynamic(file, rounded, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8,
                             extra_options=known)  # fmt: skip
        file = rounded
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(rows: Rows) -> Answers:
        tokens, mask, segment = rectangle(rows)
        inputs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": segment}
        start, end = session.run(None, inputs)
        return cut(start, end, rows)

    return run


def openvino(folder: Path, int8: bool) -> Program:
    """Its traced graph; int8 by NNCF's post-training quantisation on 64 rows."""
    import openvino as ov

    file = folder / f"openvino-{'int8' if int8 else 'fp32'}.xml"
    if not file.exists():
        model = ov.convert_model(onnx_file(folder).with_name("plain.onnx"))
        if int8:
            import nncf

            draw = np.random.default_rng(1)
            rows = [rectangle([draw.integers(1000, 30000, 128)]) for _ in range(64)]
            samples = nncf.Dataset(rows, lambda row: dict(zip([i.any_name for i in model.inputs], row, strict=True)))
            model = nncf.quantize(model, samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=64)
        ov.save_model(model, file, compress_to_fp16=False)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    compiled = ov.Core().compile_model(file, "CPU", hints | {"INFERENCE_PRECISION_HINT": "f32"})

    def run(rows: Rows) -> Answers:
        tokens, mask, segment = rectangle(rows)
        found = compiled({"input_ids": tokens, "attention_mask": mask, "token_type_ids": segment})
        return cut(found[0], found[1], rows)

    return run


def ctranslate2(folder: Path, number: str) -> Program:
    """Its encoder; the head, which it has not, by torch."""
    import ctranslate2 as ct2
    from transformers import BertForQuestionAnswering

    made = folder / "ctranslate2"
    model: Any = BertForQuestionAnswering.from_pretrained(folder)
    if not made.exists():
        base = folder / "encoder"
        model.config.position_embedding_type = "absolute"  # which its converter asks for
        model.bert.save_pretrained(base)
        (base / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
        (base / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
        ct2.converters.TransformersConverter(str(base)).convert(str(made))
    encoder = ct2.Encoder(str(made), device="cpu", compute_type=number, intra_threads=torch.get_num_threads())
    head = model.qa_outputs

    def run(rows: Rows) -> Answers:
        segments = [[int(i >= len(row) // 2) for i in range(len(row))] for row in rows]
        found = encoder.forward_batch([row.tolist() for row in rows], token_type_ids=segments).last_hidden_state
        with torch.inference_mode():
            scores = head(torch.from_numpy(np.array(found))).numpy()
        return [answer[: len(row)] for answer, row in zip(scores, rows, strict=True)]

    return run


def on_gpu(number: torch.dtype) -> dict[str, Callable[[Path], Program]]:
    """Those who have one here."""
    return {
        "hugging face": lambda folder: by_length(hugging_face(folder, False, number)),
        "hugging face, compiled": lambda folder: by_length(hugging_face(folder, True, number)),
    }


PEERS: dict[str, dict[str, Callable[[Path], Program]]] = {
    "fp32": {
        "hugging face": lambda folder: by_length(hugging_face(folder, compiled=False)),
        "hugging face, compiled": lambda folder: by_length(hugging_face(folder, compiled=True)),
        "onnxruntime": lambda folder: by_length(onnxruntime(folder, int8=False)),
        "openvino": lambda folder: by_length(openvino(folder, int8=False)),
        "ctranslate2": lambda folder: ctranslate2(folder, "float32"),
    },
    "int8": {
        "onnxruntime": lambda folder: by_length(onnxruntime(folder, int8=True)),
        "openvino": lambda folder: by_length(openvino(folder, int8=True)),
        "ctranslate2": lambda folder: ctranslate2(folder, "int8"),
    },
    "fp16": on_gpu(torch.float16),
    "bf16": on_gpu(torch.bfloat16),
}
