"""BERT against Hugging Face's: both heads, every gradient, padding and segments; a published tiny model's outputs."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForPreTraining

from phalanx.config import ModelConfig
from phalanx.models.build import make
from phalanx.models.family import configured
from phalanx.nn.model import Model
from tests.batches import batch_of
from tests.convert.folders import from_hugging_face, to_hugging_face

CLOSE = {"rtol": 0, "atol": 1e-5}
POST = {"family": "bert", "segments": 2, "norm_first": False, "gelu": "erf", "dropout": 0}

CONFIGS = {
    "padded vocabulary": configured(layers=2, hidden=48, heads=3, positions=24, vocab=131, norm_eps=1e-12, **POST),
    "whole vocabulary": configured(layers=3, hidden=32, heads=4, positions=16, vocab=256, norm_eps=1e-12, **POST),
    "narrow feed-forward": configured(layers=1, hidden=40, heads=1, ffn=56, positions=16, vocab=50, **POST),
    "three segments, tanh": configured(
        layers=2, hidden=64, heads=2, positions=16, vocab=129, **{**POST, "segments": 3, "gelu": "tanh"}
    ),
}


def hugging_face(config: ModelConfig) -> BertForPreTraining:
    """A random model of theirs, with biases and norms random too, so that a mix-up of them shows."""
    theirs = BertForPreTraining(
        BertConfig(
            vocab_size=config.vocab,
            max_position_embeddings=config.positions,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.ffn or 4 * config.hidden,
            type_vocab_size=config.segments,
            hidden_act="gelu_new" if config.gelu == "tanh" else "gelu",
            layer_norm_eps=config.norm_eps,
            pad_token_id=None,  # else their token 0 gets no gradient
            attn_implementation="eager",
        )
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return theirs.eval()


@dataclass
class Case:
    """The same weights in both models, and a batch with padding, segments and questions."""

    config: ModelConfig
    theirs: BertForPreTraining
    ours: Model
    tokens: Tensor
    segment: Tensor
    real: Tensor
    labels: Tensor
    related: Tensor

    def ours_of(self, **rest: Tensor) -> Tensor | dict[str, Tensor]:
        document = torch.where(self.real, 0, -1).int()
        batch = batch_of(self.tokens, self.config.positions, segment=self.segment, document=document, **rest)
        return self.ours(batch)

    def theirs_of(self) -> tuple[Tensor, Tensor]:
        answer = self.theirs(self.tokens, attention_mask=self.real.long(), token_type_ids=self.segment)
        return answer.prediction_logits, answer.seq_relationship_logits


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    config = request.param
    theirs = hugging_face(config)
    ours = make(config)
    ours.load_state_dict(dict(from_hugging_face(theirs.state_dict(), config)))
    shape = 4, config.positions
    tokens, segment = torch.randint(config.vocab, shape), torch.randint(config.segments, shape)
    lengths = torch.tensor([config.positions, 5, 9, config.positions - 1])
    real = torch.arange(config.positions) < lengths[:, None]
    labels = torch.where(real & (torch.rand(shape) < 0.4), torch.randint(config.vocab, shape), -1)
    return Case(config, theirs, ours.eval(), tokens, segment, real, labels, torch.tensor([0, 1, -1, 1]))


@pytest.mark.numerics
def test_logits_of_both_heads(case: Case) -> None:
    with torch.no_grad():
        words, answer = case.theirs_of()
        torch.testing.assert_close(case.ours_of()[case.real], words[case.real], **CLOSE)
        document = torch.where(case.real, 0, -1).int()
        batch = batch_of(case.tokens, case.config.positions, segment=case.segment, document=document)
        torch.testing.assert_close(case.ours.pair(case.ours.transformer(batch)), answer, **CLOSE)


@pytest.mark.numerics
def test_losses_and_every_gradient(case: Case) -> None:
    sums = case.ours_of(labels=case.labels, related=case.related)
    mlm, nsp = sums["mlm"] / (case.labels >= 0).sum(), sums["nsp"] / (case.related >= 0).sum()
    words, answer = case.theirs_of()
    expected_mlm = F.cross_entropy(words.flatten(0, 1), case.labels.flatten(), ignore_index=-1)
    expected_nsp = F.cross_entropy(answer, case.related, ignore_index=-1)
    torch.testing.assert_close(mlm, expected_mlm, **CLOSE)
    torch.testing.assert_close(nsp, expected_nsp, **CLOSE)
    (mlm + nsp).backward()
    (expected_mlm + expected_nsp).backward()
    ours = {name: p.grad for name, p in case.ours.named_parameters()}
    mapped = dict(to_hugging_face(ours, case.config))
    for name, parameter in case.theirs.named_parameters():
        torch.testing.assert_close(mapped[name], parameter.grad, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
    assert ours["transformer.embeddings.token.weight"][case.config.vocab :].count_nonzero() == 0


def test_loss_is_theirs(case: Case) -> None:
    """Their own loss, by their own conventions: labels -100, next-sentence 0 for a true continuation."""
    related = torch.where(case.related < 0, 0, case.related)
    with torch.no_grad():
        sums = case.ours_of(labels=case.labels, related=related)
        expected = case.theirs(
            case.tokens,
            attention_mask=case.real.long(),
            token_type_ids=case.segment,
            labels=torch.where(case.labels < 0, -100, case.labels),
            next_sentence_label=related,
        ).loss
    ours = sums["mlm"] / (case.labels >= 0).sum() + sums["nsp"] / len(related)
    torch.testing.assert_close(ours, expected, **CLOSE)


def test_correct_is_counted_in_evaluation(case: Case) -> None:
    with torch.no_grad():
        words, answer = case.theirs_of()
        guesses = words.argmax(-1)
        labels = torch.where(torch.rand(case.labels.shape) < 0.5, guesses, case.labels)
        labels = torch.where(case.real, labels, -1)
        sums = case.ours_of(labels=labels, related=case.related)
    assert sums["mlm_correct"] == (guesses == labels).sum()
    assert sums["nsp_correct"] == (answer.argmax(-1) == case.related).sum()


def test_weights_there_and_back_are_bit_equal(case: Case) -> None:
    back = dict(to_hugging_face(case.ours.state_dict(), case.config))
    original = {name: tensor for name, tensor in case.theirs.state_dict().items() if "position_ids" not in name}
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert back.keys() == original.keys() - tied
    assert all(torch.equal(back[name], original[name]) for name in back)


@torch.no_grad()
def test_published_model(data_dir: Path) -> None:
    """A bare BertModel, one layer and one head: hidden states and pooled output with padding and two segments."""
    folder = data_dir / "fixtures" / "tiny_models" / "bert_xsmall_dummy"
    facts = json.loads((folder / "config.json").read_text())
    config = configured(
        family="bert",
        vocab=facts["vocab_size"],
        positions=facts["max_position_embeddings"],
        hidden=facts["hidden_size"],
        layers=facts["num_hidden_layers"],
        heads=facts["num_attention_heads"],
        ffn=facts["intermediate_size"],
        segments=facts["type_vocab_size"],
        norm_eps=facts["layer_norm_eps"],
        norm_first=False,
        gelu="erf",
    )
    weights = {name: torch.from_numpy(array) for name, array in np.load(folder / "weights.npz").items()}
    model = make(config).eval()
    missing, unexpected = model.load_state_dict(dict(from_hugging_face(weights, config)), strict=False)
    assert not unexpected
    assert all(name.startswith(("masked.", "pair.classifier.")) for name in missing)

    expected = {name: torch.from_numpy(array) for name, array in np.load(folder / "expected.npz").items()}
    real = expected["attention_mask"].bool()
    document = torch.where(real, 0, -1).int()
    batch = batch_of(expected["input_ids"], config.positions, segment=expected["token_type_ids"], document=document)
    hidden = model.transformer(batch)
    torch.testing.assert_close(hidden[real], expected["last_hidden_state"][real], **CLOSE)
    torch.testing.assert_close(model.pair.pool(hidden), expected["pooler_output"], **CLOSE)
