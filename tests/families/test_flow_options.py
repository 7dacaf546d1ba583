"""What every option of a job means to flow models: something, or it is refused in a sentence of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from leco_plugin.config.families import FLOW_FAMILIES, FlowFamily
from leco_plugin.config.flow_rules import refusals, without_effect
from leco_plugin.config.sample import SamplePrompt
from leco_plugin.config.schema import JobConfig, PromptPair

PAIR = {"target": "a", "positive": "a"}
REFUSED: dict[str, Any] = {
    "model.is_v2": True,
    "model.is_xl": True,
    "model.is_v_pred": False,
    "model.zero_terminal_snr": True,
    "model.clip_skip": 2,
    "model.max_token_length": 150,
    "model.embeddings_folder": "embeddings",
    "network.type": "lokr",
    "network.conv": 4,
    "network.conv_alpha": 2.0,
    "network.layers": "xattn",
    "memory.attention": "mem_eff",
    "memory.lowram": True,
    "train.min_snr_gamma": 5.0,
    "train.noise_scheduler": "euler_a",
    "sample.sampler": "ddim",
}
"""A value of each option that means nothing to them."""
SAID = {"dynamic_crops"}
"""What has no effect, and is said to have none: beside other pairs it does no harm."""
SOME = {"model.guidance_embedding": 3.0}
"""What means something to some families."""
MEANT: dict[str, Any] = {
    "name": "another", "training_folder": "o", "output_dir": "o", "device": "cpu", "training_seed": 1,
    "resume": "newest", "meta": {"a": "b"},
    "model": {"name_or_path": "m", "extras": "e", "distilled": True, "training_adapter": "a"},
    "network": {
        "linear": 8, "linear_alpha": 4.0, "only_if_contains": ["attn"], "ignore_if_contains": ["ff"], "dropout": 0.1,
        "rank_dropout": 0.1, "module_dropout": 0.1, "network_weights": "w", "dim_from_weights": True, "dtype": "bf16",
    },
    "memory": {
        "fp8_base": True, "quantize": "int8", "offload": "layers", "torch_compile": True, "dynamo_backend": "eager",
    },
    "train": {
        "steps": 5, "lr": 0.1, "unet_lr": 0.1, "optimizer": "lion", "optimizer_params": {"weight_decay": 0.1},
        "lr_scheduler": "polynomial", "lr_warmup_steps": 1, "lr_decay_steps": 1, "lr_scheduler_num_cycles": 2,
        "lr_scheduler_power": 2.0, "lr_scheduler_min_lr_ratio": 0.1, "loss_type": "huber", "huber_c": 0.2,
        "huber_schedule": "constant", "gradient_accumulation": 2, "max_grad_norm": 0.5, "noise_offset": 0.1,
        "dtype": "bf16", "gradient_checkpointing": True,
    },
    "save": {
        "overwrite": True, "dtype": "float32", "save_every": 2, "format": "pt", "max_step_saves_to_keep": 2,
        "save_last_n_steps": 2, "save_state": True, "save_state_on_train_end": True, "save_last_n_steps_state": 2,
        "no_metadata": True, "training_comment": "c", "sidecar": True,
    },
    "logging": {
        "logging_dir": "l", "log_with": "wandb", "log_prefix": "p", "log_tracker_name": "t", "wandb_run_name": "r",
    },
    "sample": {
        "prompts": ["a"], "samples": ["a"], "sample_every": 2, "multipliers": [1.0], "network_multiplier": 1.0,
        "width": 256, "height": 256, "neg": "n", "seed": 1, "walk_seed": True, "guidance_scale": 2.0,
        "sample_steps": 4, "from_step": 1, "format": "jpg",
    },
    "leco": {
        "max_denoising_steps": 8, "denoise_guidance_scale": 2.0, "walk": "fresh", "pool_size": 2, "pool_stride": 1,
        "pairs_per_step": 2, "preserve": ["a"], "preserve_weight": 2.0, "stop_at": 0.5,
    },
    "pairs": {
        "target": "b", "positive": "b", "unconditional": "c", "neutral": "c", "action": "enhance",
        "guidance_scale": 2.0, "resolution": (256, 256), "dynamic_resolution": True, "batch_size": 2,
        "multiplier": 2.0, "weight": 2.0,
    },
}  # fmt: skip
"""A value of each option that means the same as with every other model."""
BESIDE = {
    "dim_from_weights": {"network_weights": "w"}, "huber_c": {"loss_type": "huber"},
    "huber_schedule": {"loss_type": "huber"}, "lr_scheduler_power": {"lr_scheduler": "polynomial"},
    "lr_decay_steps": {"lr_scheduler": "warmup_stable_decay"}, "log_with": {"logging_dir": "l"},
    "lr_scheduler_num_cycles": {"lr_scheduler": "cosine_with_restarts"},
    "lr_scheduler_min_lr_ratio": {"lr_scheduler": "cosine_with_min_lr"},
    "wandb_run_name": {"logging_dir": "l", "log_with": "wandb"},
}  # fmt: skip
"""What an option needs beside it."""


def options(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every option of a job by its key with its section's."""
    for name, field in model.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        section = next((kind for kind in kinds if issubclass(kind, BaseModel) and kind is not SamplePrompt), None)
        if section is PromptPair:
            yield from (f"pairs.{key}" for key in PromptPair.model_fields)
        elif section is not None:
            yield from options(section, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def job_with(option: str, value: Any) -> JobConfig:
    """A job that says this, and what has to stand beside it."""
    section, _, key = option.rpartition(".")
    said = {key: value, **BESIDE.get(key, {})}
    tree: dict[str, Any] = {"name": "n", "model": {"name_or_path": "m"}, "pairs": [PAIR]}
    if section == "pairs":
        tree["pairs"] = [{**PAIR, **said}]
    elif section:
        tree[section] = {**tree.get(section, {}), **said}
    else:
        tree |= said
    return JobConfig.model_validate({**tree, "pairs": tuple(tree["pairs"])}, strict=False)


def test_every_option_stands_in_one_of_the_tables():
    """A new one has to be thought of here."""
    meant = {
        f"{name}.{key}" if key else name
        for name, value in MEANT.items()
        for key in (value if isinstance(value, dict) and name != "meta" else [""])
    }
    known = [*meant, *REFUSED, *SOME, *(f"pairs.{name}" for name in SAID)]
    assert len(known) == len(set(known))
    assert set(known) == set(options(JobConfig))


@pytest.mark.parametrize("family", FLOW_FAMILIES.values(), ids=FLOW_FAMILIES)
def test_what_means_nothing_is_refused_by_its_name(family: FlowFamily):
    """By every family, in one sentence with its title; what means something is not."""
    for option, value in REFUSED.items():
        (problem,) = refusals(job_with(option, value), family)
        assert option in problem.message
        assert family.title in problem.message
        assert option.rpartition(".")[2] in problem.fix
    for name, values in MEANT.items():
        each = values.items() if isinstance(values, dict) and name != "meta" else [("", values)]
        for key, value in each:
            option = f"{name}.{key}" if key else name
            assert list(refusals(job_with(option, value), family)) == [], option


@pytest.mark.parametrize("family", FLOW_FAMILIES.values(), ids=FLOW_FAMILIES)
def test_a_guidance_as_a_number_is_for_models_that_take_it(family: FlowFamily):
    """FLUX.1-dev and FLUX.2-dev, and no other model of their families."""
    job = job_with("model.guidance_embedding", 3.0)
    assert bool(list(refusals(job, family))) is (family.name not in ("flux", "flux2"))
    (problem,) = refusals(job, family, takes_guidance=False)
    assert "model.guidance_embedding means nothing" in problem.message


def test_what_has_no_effect_is_said():
    """Of a pair that varies the sizes of the picture."""
    (problem,) = without_effect([PromptPair(**PAIR, dynamic_crops=True)], "FLUX.1")
    assert problem.message == "dynamic_crops has no effect on FLUX.1: it has no size conditioning"
    assert not list(without_effect([PromptPair(**PAIR)], "FLUX.1"))


def test_an_adapter_goes_into_weights_that_are_whole():
    """Quantized ones cannot be added to; our own eight bits are narrowed afterwards."""
    job = job_with("model.training_adapter", "a")
    for memory, count in (({"quantize": "int8"}, 1), ({"fp8_base": True}, 0)):
        changed = JobConfig.model_validate({**dict(job), "memory": memory})
        assert len(list(refusals(changed, FLOW_FAMILIES["flux"]))) == count
