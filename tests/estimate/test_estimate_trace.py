"""What is counted without weights is what torch counts and keeps with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import tiny_job
from saved import kept_by
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Denoiser
from leco_plugin.estimate.machine import LikeCuda, Live
from leco_plugin.estimate.steps import Call
from leco_plugin.estimate.trace import Traced
from leco_plugin.families.load import load_model
from leco_plugin.network.create import create_network

SHAPE, ROWS = (4, 24, 40), 2
"""A rectangle whose sides are halved unevenly."""


def job(folder: Path, network: dict | None = None, **train: object) -> JobConfig:
    return tiny_job(folder, network=network or {}, train=train, pairs=[{"target": "a", "positive": "b"}])


def real(settings: JobConfig) -> tuple[Denoiser, list[nn.Parameter]]:
    """The same model and network, with all their numbers."""
    again = settings.train.gradient_checkpointing
    denoiser = load_model(settings.model, dtype="fp32", device=torch.device("cpu"), checkpointing=again)
    return denoiser, list(create_network(settings.network, denoiser.module, seed=0).parameters())


def predict(denoiser: Denoiser, text: object) -> torch.Tensor:
    return denoiser.predict(torch.ones(ROWS, *SHAPE), torch.ones(ROWS), text, torch.ones(ROWS, 6))


@pytest.mark.parametrize("network", [{}, {"layers": "xattn", "linear": 8}, {"conv": 2}, {"type": "lokr"}], ids=str)
def test_weights_and_operations_are_those_that_torch_counts(tmp_path, network):
    """Of the model with its network, without gradient."""
    settings = job(tmp_path, network)
    traced, (denoiser, trained) = Traced(settings), real(settings)
    assert traced.trained == sum(parameter.numel() for parameter in trained)
    own = set(map(id, trained))
    frozen = [parameter for parameter in denoiser.module.parameters() if id(parameter) not in own]
    assert traced.model.weight_bytes == sum(parameter.nbytes for parameter in frozen)
    # torch has a formula for the plain products of attention, and none for its kernel on CPUs
    text = denoiser.encode(["a"]).rows([0] * ROWS)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        predict(denoiser, text)
    assert traced.cost(Call(SHAPE, ROWS)).flops == counter.get_total_flops()


@pytest.mark.parametrize("again", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("network", [{}, {"layers": "xattn"}, {"conv": 4}, {"type": "loha"}], ids=str)
def test_the_student_keeps_what_is_estimated(tmp_path, network, again):
    """Bytes of all tensors that wait for the backward pass, within a twentieth."""
    settings = job(tmp_path, network, gradient_checkpointing=again)
    denoiser, _ = real(settings)
    text = denoiser.encode(["a"]).rows([0] * ROWS)
    found = kept_by(denoiser.module, lambda: predict(denoiser, text))
    call = Traced(settings).cost(Call(SHAPE, ROWS, gradient=True), again=again)
    assert call.kept == pytest.approx(found, rel=0.05)
    assert call.most > call.kept


def test_a_model_can_recompute_and_keep_in_turn(tmp_path):
    """What is kept falls, and operations grow by a forward pass of the blocks."""
    traced = Traced(job(tmp_path))
    student = Call(SHAPE, 1, gradient=True)
    keeps, recomputes, keeps_again = (traced.cost(student, again=again) for again in (False, True, False))
    assert keeps == keeps_again
    assert recomputes.kept < keeps.kept / 2
    forward = traced.cost(Call(SHAPE, 1)).flops
    assert keeps.flops < recomputes.flops < keeps.flops + forward


def test_rows_without_the_network_cost_less(tmp_path):
    """As many operations less as the network has on them."""
    traced = Traced(job(tmp_path))
    off, half, on = (traced.cost(Call(SHAPE, 2, strength=strength)).flops for strength in (0.0, (0.0, 1.0), 1.0))
    assert off < half < on
    assert half - off == on - half


def test_bytes_count_from_when_they_are_made_until_they_are_let_go_of():
    """Views and what was there before cost nothing."""
    given = torch.empty(256, device="meta")
    with Live([given]) as live:
        doubled = given * 2
        view = doubled.view(16, 16)[3:]
        assert (live.now, live.most) == (1024, 1024)
        half = doubled.to(torch.bfloat16)
        del doubled
        assert (live.now, live.most) == (1024 + 512, 1024 + 512)
        del view
        assert (live.now, live.most) == (512, 1024 + 512)
        half @ half
    assert live.flops == 0
    matrix = torch.empty(8, 4, device="meta")
    with Live([matrix]) as live:
        matrix @ matrix.T
        matrix @ matrix.T
    assert live.flops == 2 * 2 * 8 * 8 * 4


def test_precision_is_that_of_autocast_on_a_card():
    """Products in half precision and norms in float32, weights copied once a call; without it all stays as it is."""
    x = torch.empty(2, 8, 4, device="meta", dtype=torch.bfloat16)
    weight = nn.Parameter(torch.empty(4, 4, device="meta"))
    with Live([x, weight]) as live, LikeCuda(torch.bfloat16):
        assert functional.linear(x, weight).dtype == torch.bfloat16
        copied = live.now
        functional.linear(x, weight)
        assert live.now == copied == 2 * weight.numel()
        assert functional.layer_norm(x, (4,)).dtype == torch.float32
        assert functional.scaled_dot_product_attention(x[None], x[None], x[None].float()).dtype == torch.bfloat16
    with LikeCuda(None):
        assert functional.layer_norm(x, (4,)).dtype == torch.bfloat16


def test_attention_keeps_no_matrix():
    """Its result, and a number for each token."""
    query = torch.empty(1, 2, 64, 8, device="meta", requires_grad=True)
    mask = torch.empty(1, 1, 1, 64, device="meta", dtype=torch.bool)
    with LikeCuda(None), Live([query, mask]) as live:
        out = functional.scaled_dot_product_attention(query, query, query, mask)
    assert out.shape == query.shape
    assert live.now < 2 * query.nbytes
