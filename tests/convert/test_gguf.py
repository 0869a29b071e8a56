"""Small models through GGUF files: out and in again, as transformers reads them, and files that are damaged."""

import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import models
from torch import Tensor
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from phalanx.config import Config, DataConfig, ModelConfig
from phalanx.convert import sources
from phalanx.convert.config_json import facts_of
from phalanx.convert.gguf import export_run, import_file
from phalanx.convert.gguf_file import PLAIN, QUANTISED, GgufFile
from phalanx.convert.gguf_writer import write_gguf
from phalanx.convert.imported import write_run
from phalanx.convert.linked import Linked
from phalanx.data.backend import END_OF_TEXT, byte_level, mark
from phalanx.data.fastpath import byte_letters
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError
from phalanx.models.build import build
from phalanx.models.family import configured
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord
from tests.cli.running import phalanx
from tests.convert.folders import to_hugging_face

SIZES = {"layers": 2, "hidden": 32, "heads": 4, "ffn": 64, "vocab": 264, "positions": 16}
WINDOWS = {"window": 4, "window_layers": "1110", **SIZES, "layers": 4}
MODELS: dict[str, ModelConfig] = {
    "llama": configured(family="llama", kv_heads=2, **SIZES),
    "tied": configured(family="llama", tied=True, width=6, theta=5e5, norm_eps=1e-6, **SIZES),
    "llama3": configured(family="llama", rope_scaling="llama3", rope_factor=32.0, rope_original=8, **SIZES),
    "linear": configured(family="llama", rope_scaling="linear", rope_factor=4.0, **SIZES),
    "qwen2": configured(family="llama", kv_heads=1, qkv_bias=True, **SIZES),
    "yarn": configured(
        family="llama", qkv_bias=True, rope_scaling="yarn", rope_factor=4.0, rope_original=8, **SIZES
    ),
    "smollm3": configured(family="llama", kv_heads=2, rope_layers="1110", **{**SIZES, "layers": 4}),
    "qwen3": configured(family="qwen3", kv_heads=2, width=16, tied=True, **SIZES),
    "olmo2": configured(family="olmo", **SIZES),
    "olmo3": configured(family="olmo", rope_scaling="yarn", rope_factor=4.0, rope_original=8, **WINDOWS),
    "pattern": configured(family="olmo", **{**WINDOWS, "window_layers": "10"}),
    "gemma3": configured(
        family="gemma3", kv_heads=1, width=16, rope_scaling="linear", rope_factor=8.0,
        **{**WINDOWS, "window_layers": "111110", "layers": 7},
    ),
    "gemma3 pattern": configured(
        family="gemma3", kv_heads=1, width=16, **{**WINDOWS, "window_layers": "10", "layers": 7}
    ),
    "gpt2": configured(family="gpt2", **SIZES),
}  # fmt: skip
READ_THERE = ("llama", "tied", "qwen2", "qwen3", "gpt2")  # by transformers, as far as it gets them right
SPECIAL = [END_OF_TEXT, "<begin>", "<turn>"]
PAIRS = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def words() -> Tokenizer:
    """Special tokens, bytes, and three pairs of them: 262 tokens, of which a model may have more."""
    tokens = [*SPECIAL, *byte_letters(), *("".join(pair) for pair in PAIRS)]
    backend = byte_level(models.BPE({token: i for i, token in enumerate(tokens)}, PAIRS))
    return Tokenizer(mark(backend, SPECIAL), "words")


def state_of(run: Path) -> dict[str, Tensor]:
    """A run's weights by Hugging Face's names, without the vocabulary's padding."""
    folder = RunFolder(run)
    return dict(to_hugging_face(Checkpointer(folder).weights(True), folder.config().model))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each small model, of random weights, and its file in fp32."""
    made = tmp_path_factory.mktemp("gguf")
    for name, model in MODELS.items():
        state = build(model, 1, torch.device("cpu")).state_dict()
        torch.manual_seed(1)
        for tensor in state.values():
            tensor.normal_()
            if tensor.dim() == 2 and len(tensor) == model.padded_vocab:  # neither ends nor padding are ever likely
                tensor[:3] = tensor[262:] = 0
        config = Config(task="clm", model=model, data=DataConfig(sequence=model.positions))
        record = ImportRecord(begin=1, ends=(2, 0), chat_template=TEMPLATE)
        write_run(made / name, config, words().json(), state, state.__getitem__, record)
        export_run(made / name, made / f"{name}.gguf", "f32")
    return made


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_is_bit_equal(name: str, runs: Path, tmp_path: Path) -> None:
    imported = import_file(runs / f"{name}.gguf", tmp_path / "run")
    back, before = RunFolder(imported.run), RunFolder(runs / name)
    assert not imported.missing and not imported.unused
    assert back.config().model.spec() == before.config().model.spec()
    theirs, ours = state_of(back.path), state_of(before.path)
    assert theirs.keys() == ours.keys()
    for one, tensor in ours.items():
        if "gemma3" in name and one.endswith("norm.weight"):  # stored with one added
            assert (theirs[one] - tensor).abs().max() < 1e-6
        else:
            assert torch.equal(theirs[one], tensor)
    record, tokenizer = ImportRecord.read(back), load_tokenizer(str(back.own_tokenizer()))
    assert (record.begin, record.ends or tokenizer.ends, record.chat_template) == (1, (2, 0), TEMPLATE)
    assert tokenizer.same_ids(load_tokenizer(str(before.own_tokenizer())))


@pytest.mark.parametrize(("kind", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16), ("q8_0", None)])
def test_numbers_of_other_types_are_rounded_once(kind: str, dtype: Any, runs: Path, tmp_path: Path) -> None:
    """Vectors stay as they are; of q8_0 a number is off by half of a 127th of the largest of its 32, or a bit more."""
    export_run(runs / "llama", tmp_path / "file.gguf", kind)
    theirs, ours = state_of(import_file(tmp_path / "file.gguf", tmp_path / "run").run), state_of(runs / "llama")
    for name, tensor in ours.items():
        if tensor.dim() < 2:
            assert torch.equal(theirs[name], tensor)
        elif dtype:
            assert torch.equal(theirs[name], tensor.to(dtype).float())
        else:
            most = tensor.unflatten(1, (-1, 32)).abs().amax(2, keepdim=True)
            assert ((theirs[name] - tensor).unflatten(1, (-1, 32)).abs() <= most / 127 * 0.6).all()


@pytest.mark.parametrize("name", READ_THERE)
def test_transformers_reads_what_is_written(name: str, runs: Path) -> None:
    """Each tensor, as that of a folder of Hugging Face's; but its reader turns no tied head back."""
    model, file = MODELS[name], runs / f"{name}.gguf"
    config = Config(task="clm", model=model, data=DataConfig(sequence=model.positions))
    facts = facts_of(config, words())
    with torch.device("meta"):
        theirs = getattr(transformers, facts["architectures"][0])(
            getattr(
                transformers,
                facts["architectures"][0].replace("ForCausalLM", "Config").replace("LMHeadModel", "Config"),
            )(**facts)
        )
    read = load_gguf_checkpoint(file, return_tensors=True, model_to_load=theirs)
    wanted = state_of(runs / name)
    assert read["tensors"].keys() == wanted.keys()
    assert all(torch.allclose(read["tensors"][one], wanted[one], 0, 1e-6) for one in wanted)


LOST = {
    "window": {"family": "llama", "window": 4},
    "rope": {"family": "llama", "rope_layers": "10"},
    "scale": {"family": "gemma3", "query_scale": 5.0},
    "magnitude": {"family": "llama", "rope_scaling": "yarn", "rope_original": 8, "rope_magnitude": 2.0},
    "norm_first": {"family": "gpt2", "norm_first": False},
    "gelu": {"family": "gpt2", "gelu": "erf"},
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
def test_a_model_that_would_be_another_there_is_refused(case: str, tmp_path: Path) -> None:
    """Where the file has no key for what it computes, or llama.cpp reads none."""
    model = configured(**{**SIZES, "layers": 4}, **LOST[case])
    state = build(model, 1, torch.device("cpu")).state_dict()
    config = Config(task="clm", model=model, data=DataConfig(sequence=16))
    write_run(tmp_path / "run", config, words().json(), state, state.__getitem__)
    with pytest.raises(InputError, match=f"run .*({case}|post-LN)"):
        export_run(tmp_path / "run", tmp_path / "file.gguf")
    assert not [*tmp_path.glob("file*")]


def test_an_export_is_there_whole_or_not_at_all(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its last tensor cannot be read; what is there already stays."""
    file, read = tmp_path / "file.gguf", Linked.__getitem__

    def broken(self: Linked, name: str) -> Tensor:
        if name == "output.weight":
            assert [*tmp_path.iterdir()] == [tmp_path / "file.gguf.partial"]
            raise OSError(28, "No space left on device")
        return read(self, name)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Linked, "__getitem__", broken)
        export_run(runs / "llama", file)
    assert not [*tmp_path.iterdir()]

    file.write_text("mine")
    with pytest.raises(InputError, match=r"file.gguf is there already; give another file"):
        export_run(runs / "llama", file)
    assert file.read_text() == "mine"


def test_the_command_line_takes_files_in_and_out(runs: Path, tmp_path: Path) -> None:
    """By import, by export of a run and of a file, and wherever a folder of Hugging Face's may stand."""
    told = phalanx("import", f"gguf:{runs / 'qwen3.gguf'}", "--out", tmp_path / "run")
    assert told == f"{tmp_path / 'run'}: 18 tensors\n"
    told = phalanx("export", tmp_path / "run", tmp_path / "again.gguf", "--to", "gguf", "--type", "q8_0")
    assert told == f"{tmp_path / 'again.gguf'}: 24 tensors\n"
    assert {each.type for each in GgufFile(tmp_path / "again.gguf").stored.values()} == {"F32", "Q8_0"}
    assert "24 tensors" in phalanx("export", f"gguf:{tmp_path / 'again.gguf'}", tmp_path / "hf")
    assert phalanx("generate", f"gguf:{tmp_path / 'again.gguf'}", "the hat", "--max-tokens", 3, "--backend", "torch")


@pytest.mark.parametrize("name", [*PLAIN, *QUANTISED])
def test_numbers_of_each_type_are_read(name: str, tmp_path: Path) -> None:
    """As the package gguf reads their blocks, in a tensor of three dimensions."""
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(1).integers(0, 60, (2, 3, 2 * size), np.uint8)  # so that scales are small numbers
    writer = gguf.GGUFWriter(tmp_path / "file.gguf", "llama")
    writer.add_tensor("tensor", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "file.gguf")
    tensor = file["tensor"]
    assert tensor.shape == file.like("tensor").shape == (2, 3, 2 * block) and tensor.dtype == file.like("tensor").dtype
    assert np.array_equal(tensor.float().numpy(), gguf.quants.dequantize(raw, kind), equal_nan=True)


class Hostile:
    """The small Llama's file, its facts and tensors changed or its bytes damaged, and then imported."""

    def __init__(self, whole: Path, folder: Path) -> None:
        self.file, self.out = folder / "file.gguf", folder / "run"
        self.whole, self.bytes = GgufFile(whole), whole.read_bytes()

    def bring(self, content: bytes | None = None) -> str:
        """Import it: "" where that went well, else the one line that was said."""
        if content is not None:
            self.file.write_bytes(content)
        try:
            import_file(self.file, self.out)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000 and str(self.file) in str(error), str(error)
            assert "phalanx-" not in str(error)  # no name of a folder for a moment
            assert not self.out.exists() and not [*self.out.parent.glob("*.partial")]
            return str(error)
        finally:
            shutil.rmtree(self.out, ignore_errors=True)
        return ""

    def said(self, tensors: Any = None, **facts: Any) -> str:
        """Return what is said of the file with other facts, dots for double underscores; None takes one away."""
        changed = {key.replace("__", "."): value for key, value in facts.items()}
        own = ("general.file_type", "general.quantization_version")
        kept = {key: value for key, value in (self.whole.facts | changed).items() if value is not None}
        self.file.unlink(missing_ok=True)
        left = {key: value for key, value in kept.items() if key not in own}
        write_gguf(self.file, left, tensors or self.whole, "f32")
        return self.bring()


@pytest.fixture
def hostile(runs: Path, tmp_path: Path) -> Hostile:
    return Hostile(runs / "llama.gguf", tmp_path)


NOT_THERE: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"general__architecture": "mamba"}, "general.architecture='mamba' is not known here; llama,"),
    "adapter": ({"general__type": "adapter"}, "holds no model: its general.type is 'adapter'"),
    "piece": ({"split__count": 3}, "is one of 3 pieces; merge them"),
    "experts": ({"llama__expert_count": 8}, "llama.expert_count=8 is not known here"),
    "no heads": ({"llama__attention__head_count": None}, "has no llama.attention.head_count"),
    "no length": ({"llama__context_length": None}, "has no llama.context_length"),
    "heads": ({"llama__attention__head_count": 5}, "num_attention_heads=5|has the shape"),
    "layers": ({"llama__block_count": 1 << 20}, "promises 1048576 layers and has 21 tensors"),
    "more layers": ({"llama__block_count": 3}, "lacks the tensor model.layers.2"),
    "fewer layers": ({"llama__block_count": 1}, "has the tensor 'blk.1.*', which this kind of model has not"),
    "text for a number": ({"llama__embedding_length": "32"}, "hidden_size='32' will not do"),
    "infinite": ({"llama__rope__freq_base": float("inf")}, "infinite numbers, or none"),
    "not a number": ({"llama__rope__freq_base": float("nan")}, "infinite numbers, or none"),
    "part of a head": ({"llama__rope__dimension_count": 4}, "rope.dimension_count=4 .* heads are 8 wide"),
    "scaling": ({"llama__rope__scaling__type": "longrope"}, "longrope"),
    "tokenizer": ({"tokenizer__ggml__model": "rwkv"}, "tokenizer.ggml.model='rwkv' is not known here; gpt2 and llama"),
    "pre": ({"tokenizer__ggml__pre": "viking"}, "tokenizer.ggml.pre='viking' is not known here; gpt-2, smollm"),
    "no pre": ({"tokenizer__ggml__pre": None}, "tokenizer.ggml.pre=None is not known here"),
    "no tokens": ({"tokenizer__ggml__tokens": None}, "has no tokenizer.ggml.tokens, a list of texts"),
    "tokens": ({"tokenizer__ggml__tokens": ["a"] * 264}, "has a token twice"),
    "types": ({"tokenizer__ggml__token_type": [1]}, "token_type is no list of as many numbers"),
    "merges": ({"tokenizer__ggml__merges": ["a ö"]}, "cannot be read"),
    "end": ({"tokenizer__ggml__eos_token_id": 262}, "eos_token_id=262 will not do: the tokens are 0 to 261"),
    "scores": ({"tokenizer__ggml__model": "llama"}, "has no tokenizer.ggml.scores"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_THERE)
def test_what_is_not_there_is_refused_by_name(case: str, hostile: Hostile) -> None:
    facts, said = NOT_THERE[case]
    assert re.search(said, hostile.said(**facts)), hostile.said(**facts)


def test_a_tensor_too_many_or_of_another_shape_is_refused(hostile: Hostile) -> None:
    class More(GgufFile):
        def __init__(self) -> None:
            self.__dict__ |= hostile.whole.__dict__ | {"stored": dict(hostile.whole.stored)}

    more = More()
    more.stored["blk.0.attn_q.bias"] = more.stored["blk.0.attn_norm.weight"]
    assert "has the tensor 'blk.0.attn_q.bias', which this kind of model has not" in hostile.said(more)
    other = More()
    other.stored["output_norm.weight"] = other.stored["blk.0.ffn_up.weight"]
    assert "output_norm.weight has the shape [64, 32], by the other facts it has [32]" in hostile.said(other)


def test_a_type_that_is_not_known_is_refused_by_name(hostile: Hostile) -> None:
    name = b"output_norm.weight"
    said = hostile.bring(_after(hostile.bytes, name, 12, (20).to_bytes(4, "little")))  # behind its one dimension
    assert "'output_norm.weight' is of the type IQ4_NL, which is not known here; F32, F16, BF16" in said
    assert "of the number 999" in hostile.bring(_after(hostile.bytes, name, 12, (999).to_bytes(4, "little")))


HUGE = (1 << 60).to_bytes(8, "little")
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: b"", "cannot be read"),
    "magic": (lambda whole: b"GGML" + whole[4:], "does not begin as GGUF does"),
    "version": (lambda whole: whole[:4] + b"\x01\0\0\0" + whole[8:], "version 1 of GGUF is not known here; 2 and 3"),
    "big-endian": (lambda whole: whole[:4] + b"\0\0\0\x03" + whole[8:], "version 50331648 of GGUF is not known here"),
    "tensors": (lambda whole: whole[:8] + HUGE + whole[16:], "cannot be read"),
    "facts": (lambda whole: whole[:16] + HUGE + whole[24:], "cannot be read"),
    "a name": (lambda whole: whole[:24] + HUGE + whole[32:], "ends early"),
    "a list": (lambda whole: _after(whole, b"tokenizer.ggml.tokens", 8, HUGE), "cannot be read"),
    "numbers": (lambda whole: _after(whole, b"tokenizer.ggml.token_type", 8, HUGE), "ends early"),
    "a size": (lambda whole: _after(whole, b"output_norm.weight", 4, HUGE), "'output_norm.weight' does not lie in it"),
    "no size": (lambda whole: _after(whole, b"output_norm.weight", 4, bytes(8)), "has the dimensions"),
    "dimensions": (lambda whole: _after(whole, b"output_norm.weight", 0, b"\xff" * 4), "of 4294967295 dimensions"),
    "an offset": (lambda whole: _after(whole, b"output_norm.weight", 16, HUGE), "does not lie in it"),
    "off": (lambda whole: _after(whole, b"output_norm.weight", 16, b"\1" + bytes(7)), "does not lie in it"),
    "text": (lambda whole: whole.replace(b"general.type", b"general.typ\xff"), "is no UTF-8"),
    "twice": (lambda whole: whole.replace(b"blk.1.attn_q.", b"blk.0.attn_q."), "'blk.0.attn_q.weight' is there twice"),
}  # fmt: skip


def _after(whole: bytes, name: bytes, behind: int, content: bytes) -> bytes:
    at = whole.index(name) + len(name) + behind
    return whole[:at] + content + whole[at + len(content) :]


@pytest.mark.parametrize("number", [0.0, -1.0, 2.0, float("inf"), float("nan")])
def test_factors_that_are_not_llama_3s_are_refused(number: float, runs: Path, tmp_path: Path) -> None:
    """Each of which there is one for a pair of numbers of a head."""
    hostile = Hostile(runs / "llama3.gguf", tmp_path)
    start = hostile.whole.stored["rope_freqs.weight"].start
    factor = np.array([number], "<f4").tobytes()
    said = hostile.bring(hostile.bytes[:start] + factor + hostile.bytes[start + 4 :])
    assert "rope_freqs.weight holds other factors than Llama 3's" in said


def test_factors_beside_another_scaling_are_refused(runs: Path, tmp_path: Path) -> None:
    said = Hostile(runs / "llama3.gguf", tmp_path).said(llama__rope__scaling__type="linear")
    assert "rope.scaling.type='linear' beside rope_freqs.weight is not known here" in said


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_header_is_told_in_one_line(case: str, hostile: Hostile) -> None:
    damage, said = DAMAGES[case]
    assert said in hostile.bring(damage(hostile.bytes))


def test_a_cut_file_is_told_in_one_line(hostile: Hostile) -> None:
    """Wherever it is cut."""
    for length in [*range(0, len(hostile.bytes), len(hostile.bytes) // 50), len(hostile.bytes) - 1]:
        assert hostile.bring(hostile.bytes[:length])


def test_bytes_that_flip_are_refused_or_harmless(hostile: Hostile) -> None:
    """Nothing but one line comes of any; most flips in names and numbers are found."""
    chance, header = random.Random(1), hostile.bytes.index(b"output_norm.weight")
    refused = 0
    for _ in range(40):
        content, at = bytearray(hostile.bytes), chance.randrange(header)
        content[at] ^= 1 << chance.randrange(8)
        refused += bool(hostile.bring(bytes(content)))
    assert refused > 20


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("phalanx.convert.gguf")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"GGUF needs the package gguf; install phalanx\[gguf\]"):
        sources.gguf()
