"""How others continue texts with a GPT-2 of a Hugging Face folder, each made the way its own documentation says:
functions of prompts of one length, which give the tokens that follow, always the likeliest.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEW = 128  # tokens

Prompts = np.ndarray  # int64 [batch, length]
Program = Callable[[Prompts], np.ndarray]  # int64 [batch, NEW]


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hugging_face(folder: Path, number: torch.dtype = torch.float32) -> Program:
    """Its own `generate`."""
    model = _model(folder).to(DEVICE, number)

    @torch.inference_mode()
    def run(prompts: Prompts) -> np.ndarray:
        ids = torch.from_numpy(prompts).to(DEVICE)
        found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW,
                               min_new_tokens=NEW, pad_token_id=0)  # fmt: skip
        return np.asarray(found[:, ids.shape[1] :].cpu())

    return run


def gpt_fast(folder: Path, int8: bool, number: torch.dtype = torch.float32) -> Program:
    """In the manner of gpt-fast: a cache of fixed size, prompts by the plain model, single tokens by a compiled one, on
    a GPU in a CUDA graph; int8 rounds weights alone, which freezing would make fp32 again.
    """
    model = _Blocks(folder).to(DEVICE, number)
    if int8:
        for module in [*model.modules()]:
            for name, child in [*module.named_children()]:
                if isinstance(child, nn.Linear):
                    setattr(module, name, _Rounded(child))
    gpu = DEVICE.type == "cuda"
    how: dict[str, Any] = {"mode": "reduce-overhead"} if gpu else {"options": {"freezing": not int8}}
    step = torch.compile(model, dynamic=False, **how)

    @torch.no_grad()
    def run(prompts: Prompts) -> np.ndarray:
        batch, length = prompts.shape
        model.remember(batch, length + NEW)
        place = torch.arange(length, device=DEVICE)
        tokens = model(torch.from_numpy(prompts).to(DEVICE), place)[:, -1:].argmax(-1)
        found = [tokens]
        for at in range(length, length + NEW - 1):
            tokens = step(tokens, torch.tensor([at], device=DEVICE))[:, -1:].argmax(-1).clone()
            found.append(tokens)
        return torch.cat(found, 1).cpu().numpy()

    return run


def onnxruntime(folder: Path, int8: bool) -> Program:
    """A graph with its past as inputs; int8 by dynamic quantisation."""
    import onnxruntime as ort

    file = _exported(folder)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        plain, file = file, folder / "int8.onnx"
        if not file.exists():
            quantize_dynamic(plain, file, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names, value = [i.name for i in session.get_inputs()], ort.OrtValue.ortvalue_from_numpy

    def run(prompts: Prompts) -> np.ndarray:
        batch, length = prompts.shape
        past = [value(np.zeros((batch, *_Blocks.SHAPE[:1], 0, *_Blocks.SHAPE[1:]), np.float32)) for _ in names[2:]]
        tokens, at, found = prompts, np.arange(length), []
        for _ in range(NEW):
            inputs = dict(zip(names, [value(tokens), value(at), *past], strict=True))
            logits, *past = session.run_with_ort_values(None, inputs)
            tokens, at = logits.numpy()[:, -1:].argmax(-1), at[-1:] + 1
            found.append(tokens)
        return np.concatenate(found, 1)

    return run


def openvino(folder: Path, int8: bool) -> Program:
    """A graph whose past is its state; int8 rounds weights (NNCF), activations as it likes."""
    import openvino as ov
    from openvino._offline_transformations import apply_make_stateful_transformation

    model = _WithPast(folder)
    ids, at, past, order = model.example()
    jit: Any = torch.jit
    traced = ov.convert_model(jit.trace(model, (ids, at, order, *past)), example_input=(ids, at, order, *past))
    count = len(past)
    for port, name in zip(traced.inputs, ["ids", "at", "order", *(f"past{i}" for i in range(count))], strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(traced.outputs, ["logits", *(f"present{i}" for i in range(count))], strict=True):
        port.get_tensor().set_names({name})
    heads, width = _Blocks.SHAPE
    shapes = {"ids": [-1, -1], "at": [-1], "order": [-1]} | {f"past{i}": [-1, heads, -1, width] for i in range(count)}
    traced.reshape(shapes)
    apply_make_stateful_transformation(traced, {f"past{i}": f"present{i}" for i in range(count)})
    if int8:
        import nncf

        traced = nncf.compress_weights(traced, mode=nncf.CompressWeightsMode.INT8_SYM)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    request = ov.Core().compile_model(traced, "CPU", hints).create_infer_request()

    def run(prompts: Prompts) -> np.ndarray:
        batch, length = prompts.shape
        request.reset_state()
        for state in request.query_state():
            state.state = ov.Tensor(np.zeros((batch, heads, 0, width), np.float32))
        tokens, at, found = prompts, np.arange(length), []
        for _ in range(NEW):
            request.infer({"ids": tokens, "at": at, "order": np.arange(batch)})
            logits = request.get_tensor("logits").data
            tokens, at = logits[:, -1:].argmax(-1).astype(np.int64), at[-1:] + 1
            found.append(tokens)
        return np.concatenate(found, 1)

    return run


def ctranslate2(folder: Path, number: str) -> Program:
    """Its generator."""
    import ctranslate2 as ct2
    from transformers import AutoTokenizer

    made = folder / "ctranslate2"
    if not made.exists():
        ct2.converters.TransformersConverter(str(folder)).convert(str(made))
    generator = ct2.Generator(str(made), device="cpu", compute_type=number, intra_threads=torch.get_num_threads())
    names: Any = AutoTokenizer.from_pretrained(folder)

    def run(prompts: Prompts) -> np.ndarray:
        texts = [names.convert_ids_to_tokens(prompt.tolist()) for prompt in prompts]
        found = generator.generate_batch(texts, max_length=NEW, min_length=NEW, sampling_topk=1,
                                         include_prompt_in_result=False, max_batch_size=len(texts))  # fmt: skip
        return np.array([one.sequences_ids[0] for one in found])

    return run


def _model(folder: Path) -> Any:
    from transformers import GPT2LMHeadModel

    model: Any = GPT2LMHeadModel.from_pretrained(folder)
    return model.eval()


class _Block(nn.Module):
    """Hugging Face's block, its products in `nn.Linear`."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        self.qkv, self.out = _linear(block.attn.c_attn), _linear(block.attn.c_proj)
        self.up, self.down = _linear(block.mlp.c_fc), _linear(block.mlp.c_proj)
        self.keys, self.values = torch.zeros(0), torch.zeros(0)


class _Blocks(nn.Module):
    """GPT-2 with a cache of fixed size, which it writes to."""

    SHAPE = 12, 64  # heads, width

    def __init__(self, folder: Path) -> None:
        super().__init__()
        plain = _model(folder)
        self.words, self.places = plain.transformer.wte, plain.transformer.wpe
        self.blocks = nn.ModuleList(_Block(block) for block in plain.transformer.h)
        self.norm, self.head = plain.transformer.ln_f, nn.Linear(1, 1, bias=False)
        self.head.weight = nn.Parameter(plain.lm_head.weight.detach())

    def remember(self, batch: int, length: int) -> None:
        """Room for so many tokens; what is there stays where it is of that size."""
        for block in list[Any](self.blocks):
            if block.keys.shape[::2] != (batch, length):
                block.keys = self.words.weight.new_zeros(batch, self.SHAPE[0], length, self.SHAPE[1])
                block.values = torch.zeros_like(block.keys)

    def forward(self, tokens: Tensor, at: Tensor) -> Tensor:
        """int64 [batch, new], int64 [new] -> float32 [batch, new, vocab]"""
        x, blocks = self.words(tokens) + self.places(at), list[Any](self.blocks)
        for block in blocks:
            q, k, v = _heads(block.qkv(block.ln_1(x)), self.SHAPE[0])
            block.keys[:, :, at], block.values[:, :, at] = k, v
            seen = torch.arange(block.keys.shape[2], device=at.device) <= at[:, None]
            x = _rest(block, x, F.scaled_dot_product_attention(q, block.keys, block.values, attn_mask=seen))
        logits: Tensor = self.head(self.norm(x[:, -1:]))
        return logits


class _WithPast(nn.Module):
    """The same with its past as inputs, and past and new as outputs; `order` says whose past is whose."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.of = _Blocks(folder).eval()

    def example(self) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Inputs."""
        past = [torch.randn(2, _Blocks.SHAPE[0], 5, _Blocks.SHAPE[1]) for _ in range(2 * len(self.of.blocks))]
        return torch.randint(1000, (2, 3)), torch.arange(5, 8), past, torch.arange(2)

    def forward(self, tokens: Tensor, at: Tensor, order: Tensor, *pasts: Tensor) -> tuple[Tensor, ...]:
        """-> logits of the last token, keys and values"""
        x, presents, blocks = self.of.words(tokens) + self.of.places(at), list[Tensor](), list[Any](self.of.blocks)
        for layer, block in enumerate(blocks):
            q, k, v = _heads(block.qkv(block.ln_1(x)), _Blocks.SHAPE[0])
            k = torch.cat([pasts[2 * layer].index_select(0, order), k], 2)
            v = torch.cat([pasts[2 * layer + 1].index_select(0, order), v], 2)
            presents += [k, v]
            seen = torch.arange(k.shape[2]) <= at[:, None]
            x = _rest(block, x, F.scaled_dot_product_attention(q, k, v, attn_mask=seen[None, None]))
        return self.of.head(self.of.norm(x[:, -1:])), *presents


class _Unordered(nn.Module):
    """Without the order."""

    def __init__(self, model: _WithPast) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, at: Tensor, *pasts: Tensor) -> Any:
        """As `_WithPast`'s."""
        return self.model(tokens, at, torch.arange(tokens.shape[0]), *pasts)


class _Rounded(nn.Module):
    """A linear layer whose weight is int8, by output channel."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1) / 127
        self.register_buffer("weight", torch.round(linear.weight.detach() / scale[:, None]).to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`'s."""
        weight: Any = self.weight
        scale: Any = self.scale
        y: Tensor = F.linear(x, weight.to(x.dtype)) * scale
        return y if self.bias is None else y + self.bias


def _linear(conv: Any) -> nn.Linear:
    made = nn.Linear(*conv.weight.shape)
    made.weight, made.bias = nn.Parameter(conv.weight.detach().T.contiguous()), conv.bias
    return made


def _heads(x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in x.chunk(3, -1))
    return q, k, v


def _rest(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    x = x + block.out(attended.transpose(1, 2).flatten(2))
    y: Tensor = x + block.down(F.gelu(block.up(block.ln_2(x)), approximate="tanh"))
    return y


def _exported(folder: Path) -> Path:
    file = folder / "past.onnx"
    if not file.exists():
        model = _WithPast(folder)
        tokens, at, past, _ = model.example()
        names = [f"{kind}{i}" for kind in ("past", "present") for i in range(len(past))]
        pasts, presents = names[: len(past)], names[len(past) :]
        axes: dict[str, Any] = {"tokens": {0: "batch", 1: "new"}, "at": {0: "new"}, "logits": {0: "batch"}}
        axes |= {name: {0: "batch", 2: name} for name in names}
        torch.onnx.export(_Unordered(model), (tokens, at, *past), str(file), input_names=["tokens", "at", *pasts],
                          output_names=["logits", *presents], dynamic_axes=axes, opset_version=17,
                          dynamo=False)  # fmt: skip
    return file


def on_gpu(number: torch.dtype) -> dict[str, Callable[[Path], Program]]:
    """Those who have one here."""
    return {
        "hugging face": lambda folder: hugging_face(folder, number),
        "in gpt-fast's manner": lambda folder: gpt_fast(folder, False, number),
    }


PEERS: dict[str, dict[str, Callable[[Path], Program]]] = {
    "fp32": {
        "hugging face": hugging_face,
        "in gpt-fast's manner": lambda folder: gpt_fast(folder, int8=False),
        "onnxruntime": lambda folder: onnxruntime(folder, int8=False),
        "openvino": lambda folder: openvino(folder, int8=False),
        "ctranslate2": lambda folder: ctranslate2(folder, "float32"),
    },
    "int8": {
        "in gpt-fast's manner": lambda folder: gpt_fast(folder, int8=True),
        "onnxruntime": lambda folder: onnxruntime(folder, int8=True),
        "openvino": lambda folder: openvino(folder, int8=True),
        "ctranslate2": lambda folder: ctranslate2(folder, "int8"),
    },
    "fp16": on_gpu(torch.float16),
    "bf16": on_gpu(torch.bfloat16),
}
