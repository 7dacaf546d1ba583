"""Flow models are traced as they are: every family, by its own class and layers."""

from __future__ import annotations

import json
from dataclasses import replace

import diffusers
import pytest
import torch
from flow_models import KINDS
from models import tiny_job
from saved import kept_by
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from leco_plugin.config.schema import MemoryConfig
from leco_plugin.estimate.run import Estimator
from leco_plugin.estimate.steps import Call
from leco_plugin.estimate.trace import Traced
from leco_plugin.families.load import load_model
from leco_plugin.network.create import create_network

GIB = 2**30


def flow_job(folder, source, **changes):
    pairs = [{"target": "a", "positive": "b", "resolution": (64, 96)}]
    return tiny_job(folder, model={"name_or_path": str(source)}, pairs=pairs, **changes)


def as_traced(text, traced):
    """``text`` of one prompt, cut or filled up to the length that is traced."""
    (example,) = traced.model.text.each
    entry = {name: torch.ones(tensor.shape, dtype=tensor.dtype) for name, tensor in example.items()}
    assert {name: tensor.shape[1:] for name, tensor in text.each[0].items()} == {
        name: tensor.shape[1:] for name, tensor in entry.items()
    }
    return replace(text, each=[entry])


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_computes_and_keeps_what_torch_counts(kind, flow_folder, tmp_path):
    """Operations of a call without gradient are exact; bytes kept for the backward pass are within a twentieth."""
    job = flow_job(tmp_path, flow_folder(kind))
    traced = Traced(job)
    denoiser = load_model(job.model, dtype="fp32", device=torch.device("cpu"))
    network = create_network(job.network, denoiser.module, seed=0)
    shape, text = denoiser.latent_shape(64, 96), as_traced(denoiser.encode(["a"]), traced)
    assert traced.trained == sum(parameter.numel() for parameter in network.parameters())

    def predict():
        return denoiser.predict(torch.ones(2, *shape), torch.full((2,), 500.0), text.rows([0, 0]), torch.ones(2, 6))

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        predict()
    assert traced.cost(Call(shape, 2)).flops == counter.get_total_flops()
    assert traced.cost(Call(shape, 2, gradient=True)).kept == pytest.approx(kept_by(denoiser.module, predict), rel=0.05)


def test_z_image_at_its_own_size_is_what_its_users_know(tmp_path):
    """6.15 billion weights: 24 GB with checkpointing, 12 GB with eight bits besides; the text encoder is 7.5 GiB."""
    with torch.device("meta"):
        transformer = dict(diffusers.ZImageTransformer2DModel().config)
    encoder = {"vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}
    encoder |= {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
    index = {"_class_name": "ZImagePipeline", "text_encoder": ["transformers", "Qwen3Model"]}
    files = {
        "model_index.json": index, "transformer/config.json": transformer, "text_encoder/config.json": encoder,
        "scheduler/scheduler_config.json": {"shift": 6.0}, "vae/config.json": {"block_out_channels": [1, 1, 1, 1]},
    }  # fmt: skip
    for name, tree in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(tree), "utf-8")
    pairs = [{"target": "a", "positive": "b", "resolution": (1024, 1024)}]
    job = tiny_job(tmp_path, model={"name_or_path": str(tmp_path)}, train={"dtype": "bf16"}, pairs=pairs)
    eight, four, away = (
        Traced(job.model_copy(update={"memory": MemoryConfig(**memory)})).model.weight_bytes
        for memory in ({"quantize": "int8"}, {"quantize": "nf4"}, {"offload": "layers"})
    )
    assert 5.7 * GIB < eight < 5.8 * GIB
    assert 3.2 * GIB < four < 3.4 * GIB
    # two of its widest layers, 3840 x 10240
    assert away == 2 * 2 * 3840 * 10240
    estimator = Estimator()
    found = estimator.estimate(job)
    assert found.model == 2 * 6_154_908_736
    assert found.text_encoders == pytest.approx(7.5 * GIB, rel=0.01)
    assert estimator.what_fits(job, 22 * GIB)[0] == ["train.gradient_checkpointing: true"]
    assert estimator.what_fits(job, 11 * GIB)[0] == ["train.gradient_checkpointing: true", "memory.fp8_base: true"]
    # where the text encoder does not fit, nothing helps
    assert estimator.what_fits(job, 7 * GIB) == ([], found)
