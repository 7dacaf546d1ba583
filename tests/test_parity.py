"""The parity page: every row names a test that exists, an option of the schema and a flag that is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from leco_plugin.config.prompt_keys import ROOT_KEYS
from leco_plugin.config.schema import JobConfig, LecoConfig, PromptPair
from leco_plugin.config.sd_flags import FLAGS, options

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
TESTS = [row for row in ROWS if "::" in row[-1]]
OF_THE_GUIDE = """
prompts_file max_denoising_steps leco_denoise_guidance_scale pretrained_model_name_or_path v2 v_parameterization
network_module network_dim network_alpha network_dropout network_args network_weights dim_from_weights max_train_steps
max_train_epochs learning_rate unet_lr optimizer_type lr_scheduler lr_warmup_steps gradient_accumulation_steps
max_grad_norm min_snr_gamma output_dir output_name save_model_as save_every_n_steps save_every_n_epochs save_precision
no_metadata training_comment mixed_precision full_fp16 full_bf16 gradient_checkpointing sdpa xformers mem_eff_attn seed
noise_offset zero_terminal_snr clip_skip logging_dir log_with
"""


def names(cell: str) -> list[str]:
    return re.findall(r"`(?:--)?([a-z0-9_.]+)`", cell)


def flags() -> dict[str, list[str]]:
    """Rows by the flag that they begin with."""
    return {names(row[0])[0]: row for row in TESTS if row[0].startswith("`--") and names(row[0])[0] in FLAGS}


def test_every_row_names_a_test():
    """But for the heads of the tables."""
    heads = [row for row in ROWS if row[-1] == "test"]
    assert len(TESTS) + len(heads) == len(ROWS)
    assert len(TESTS) > 80


@pytest.mark.parametrize("where", sorted({row[-1].strip("`") for row in TESTS}))
def test_a_test_that_is_named_exists(where):
    """In that file, under that name."""
    path, name = where.split("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_every_flag_of_the_guide_has_a_row():
    """And so has every flag that sets an option, but those that are another's other name."""
    assert set(OF_THE_GUIDE.split()) <= flags().keys()
    synonyms = {"fp8_base_unet", "config_file", "use_8bit_adam", "use_lion_optimizer"}
    followed = {name for name, flag in FLAGS.items() if flag.to}
    assert followed - synonyms <= flags().keys()


def test_a_row_names_the_option_that_its_flag_sets():
    """As the program's own table has it."""
    said = {name: names(row[1])[0] for name, row in flags().items() if len(row) == 4}
    assert {name: said[name] for name, to in options() if name in said} == {n: to for n, to in options() if n in said}


@pytest.mark.parametrize("dotted", sorted({names(row[1])[0] for row in flags().values() if len(row) == 4}))
def test_an_option_that_is_named_is_in_the_schema(dotted):
    """At that place; prompts_file is the job's way to its prompts."""
    if dotted == "leco.prompts_file":
        assert "prompts_file" not in LecoConfig.model_fields
        return
    model: Any = JobConfig
    for name in dotted.split("."):
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        model = model.model_fields[name].annotation


def test_every_field_of_a_pair_has_a_row():
    """And those that only the files have."""
    fields = {names(row[0])[0] for row in TESTS if len(row) == 3 and not row[0].startswith("`--") and names(row[0])}
    assert set(PromptPair.model_fields) <= fields
    assert ROOT_KEYS - {"prompts", "targets", "slider", "target"} <= fields | {"prompt", "name"}
