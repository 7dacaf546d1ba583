"""Settings with which a run goes to its end and the LoRA does nothing: refused, or said in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leco_plugin.commands.main import main
from leco_plugin.config.build import build_section
from leco_plugin.config.files import read_document
from leco_plugin.config.idle import idle_settings
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.errors import ConfigError

PAIR = PromptPair(target="a", positive="b")


def said(pairs: tuple[PromptPair, ...] = (PAIR,), **sections: Any) -> list[str]:
    """What is said of a job, without the ways out."""
    job = JobConfig(name="x", model={"name_or_path": "m"}, pairs=pairs, **sections)  # type: ignore[arg-type]
    return [problem.message for problem in idle_settings(job)]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"train": {"lr": 0.0}}, "train.lr 0 trains nothing"),
        ({"train": {"unet_lr": 0.0}}, "train.unet_lr 0 trains nothing"),
        ({"train": {"optimizer": "prodigy", "lr": 1e-4}}, "takes lr as a factor: 1 is usual, not 0.0001"),
        ({"train": {"steps": 1, "lr_warmup_steps": 1}}, "train.lr_warmup_steps 1 is no less than the 1 steps"),
        ({"train": {"steps": 9, "lr_warmup_steps": 10, "lr_scheduler": "linear"}}, "lr is never reached"),
        ({"network": {"linear": 4, "linear_alpha": 1e-6}}, "network.linear_alpha 1e-06 scales the effect by"),
        ({"network": {"conv": 4, "conv_alpha": 1e-6}}, "network.conv_alpha 1e-06 scales the effect by"),
        ({"leco": {"denoise_guidance_scale": 0.0}}, "walks as if there were no prompt"),
        ({"sample": {"prompts": ["a"], "guidance_scale": 0.0}}, "draws as if there were no prompt"),
        ({"sample": {"samples": ["a"], "from_step": 20}}, "never switches the LoRA on in 20 sample_steps"),
        ({"sample": {"prompts": ["a"], "multipliers": [0.0]}}, "draw the base model, and no LoRA"),
        ({"sample": {"prompts": ["a"], "network_multiplier": 0.0}}, "draw the base model, and no LoRA"),
    ],
)
def test_what_keeps_a_lora_from_learning_is_said(sections: dict[str, Any], words: str):
    """In one sentence each, with the key."""
    (message,) = said(**sections)
    assert words in message


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"train": {"lr": 0.0, "unet_lr": 1e-4}},
        {"train": {"optimizer": "prodigy", "lr": 1.0}},
        {"train": {"optimizer": "adagrad", "lr": 1e-4}},
        {"train": {"steps": 10, "lr_warmup_steps": 9}},
        {"network": {"linear": 1000, "linear_alpha": 1.0}},
        {"sample": {"guidance_scale": 0.0, "multipliers": [0.0]}},
        {"sample": {"prompts": ["a"], "multipliers": [0.0, 1.0]}},
    ],
)
def test_what_learns_is_not_spoken_of(sections: dict[str, Any]):
    """The defaults, and what looks like it at a glance."""
    assert said(**sections) == []


IDLE = [
    "weight = 0",
    "multiplier = 0",
    'guidance_scale = 0\nneutral = "a"',
    'positive = "b"\nunconditional = "b"\nneutral = "a"',
]


@pytest.mark.parametrize("line", IDLE)
def test_a_job_whose_pairs_ask_for_nothing_is_refused(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """By check and train, before a model is looked for; beside one pair that asks, such a pair is only warned of."""
    job = tmp_path / "job.yaml"
    start = (
        "job: extension\nconfig:\n  name: x\n  process:\n  - type: leco\n    model: {name_or_path: none.safetensors}\n"
    )
    job.write_text(f"{start}    training_folder: {tmp_path}\n    leco: {{prompts_file: p.toml}}\n")
    prompts = tmp_path / "p.toml"
    prompts.write_text(f'[[prompts]]\ntarget = "a"\n{line}\n')
    for command in ("check", "train"):
        assert main([command, str(job)]) == 2
        assert "no pair asks for a change, so the LoRA would do nothing" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no pair asks for a change"):
        build_section(read_document(job), 0)
    prompts.write_text(f'{prompts.read_text()}[[prompts]]\ntarget = "c"\n')
    assert main(["train", str(job)]) == 2
    assert "no pair asks" not in capsys.readouterr().err
    assert not (tmp_path / "x" / "x.safetensors").exists()
