"""Where a job says nothing, it has what its model's family is recommended to be trained with."""

from __future__ import annotations

from pathlib import Path

import pytest

from leco_plugin.config.build import load_job
from leco_plugin.config.defaults import ROWS, kind_of, page, with_defaults
from leco_plugin.config.families import FLOW_FAMILIES
from leco_plugin.config.schema import JobConfig, ModelConfig, PromptPair
from leco_plugin.config.sd_scripts import load_flags

ROOT = Path(__file__).parents[2]
JOB = """\
job: extension
config:
  name: a
  process:
    - type: leco
      model: {{name_or_path: some/model}}
      {extra}
      leco:
        {prompts}
"""
SLIDER = 'targets: [{target_class: "a", positive: "b", negative: "c"}]'
ERASE = 'prompts: [{target: "a", positive: "b"}]'


def job(folder: Path, prompts: str = SLIDER, extra: str = "") -> JobConfig:
    path = folder / "job.yaml"
    path.write_text(JOB.format(prompts=prompts, extra=extra), "utf-8")
    return load_job(path).job


def sizes(job: JobConfig) -> set[tuple[int, int]]:
    return {pair.resolution for pair in job.pairs}


@pytest.mark.parametrize(
    ("family", "ranks", "steps", "side", "strengths"),
    [("sd1", (4, 8), (300, 1000), 512, (1, 2)), ("sd2", (4, 8), (300, 1000), 512, (1, 2)),
     ("sdxl", (8, 16), (500, 2000), 1024, (1, 3)), ("flux", (8, 16), (500, 1000), 512, (1, 2))],
)  # fmt: skip
@pytest.mark.parametrize("prompts", [SLIDER, ERASE])
def test_an_open_job_has_what_the_guides_recommend(
    tmp_path: Path, prompts: str, family: str, ranks, steps, side: int, strengths
):
    """Within the ranges of sd-scripts' guide for Stable Diffusion, and of the practice for flow models."""
    found = with_defaults(job(tmp_path, prompts), family).job
    assert ranks[0] <= found.network.linear <= ranks[1]
    assert steps[0] <= found.train.steps <= steps[1]
    assert sizes(found) == {(side, side)}
    assert {strengths[0] <= pair.guidance_scale <= strengths[1] for pair in found.pairs} == {True}
    assert 1e-4 <= found.train.lr <= 5e-4


def test_what_a_job_says_counts_also_where_it_is_what_the_schema_has(tmp_path: Path):
    """512 and 1.0 are said here, and so no SDXL default takes their place."""
    said = 'guidance_scale: 1.0\n        resolution: 512\n        targets: [{target_class: "a", positive: "b"}]'
    found = with_defaults(job(tmp_path, said, "train: {steps: 7}"), "sdxl")
    assert (found.job.train.steps, sizes(found.job), found.job.pairs[0].guidance_scale) == (7, {(512, 512)}, 1.0)
    assert not {"train.steps", "pair.resolution", "pair.guidance_scale"} & found.taken
    assert {"train.lr", "network.linear"} <= found.taken


def test_of_another_rank_alpha_is_the_same_share(tmp_path: Path):
    """SDXL has 8 and 4: of rank 32 it is 16; an alpha that is said stays."""
    assert with_defaults(job(tmp_path, extra="network: {linear: 32}"), "sdxl").job.network.linear_alpha == 16
    both = job(tmp_path, extra="network: {linear: 32, linear_alpha: 1}")
    assert with_defaults(both, "sdxl").job.network.linear_alpha == 1


def test_a_family_that_is_not_known_changes_nothing(tmp_path: Path):
    """The schema's defaults are left, and none is said to be a family's."""
    plain = job(tmp_path)
    found = with_defaults(plain, None)
    assert (found.job, found.title, found.taken) == (plain, "", frozenset())


def test_filling_in_again_for_another_family_gives_that_family_s(tmp_path: Path):
    """What was filled in is open still."""
    twice = with_defaults(with_defaults(job(tmp_path), "sdxl").job, "sd1").job
    assert twice == with_defaults(job(tmp_path), "sd1").job


def test_flags_of_sd_scripts_keep_that_trainer_s_defaults(tmp_path: Path):
    """Rank 4, alpha 1, 1600 steps, 512 pixels, edit strength 1: the guide's own."""
    prompts = tmp_path / "p.toml"
    prompts.write_text('[[targets]]\ntarget_class = "a"\npositive = "b"\n', "utf-8")
    arguments = ["--pretrained_model_name_or_path=sdxl", f"--prompts_file={prompts}", "--output_name=a"]
    found = load_flags([*arguments, f"--output_dir={tmp_path}"], sdxl=True).job
    assert (found.network.linear, found.network.linear_alpha, found.train.steps) == (4, 1, 1600)
    assert (sizes(found), found.pairs[0].guidance_scale) == ({(512, 512)}, 1)


def test_every_family_has_a_row_that_the_schema_takes():
    """Flow families by their own names, the others by theirs; every value is within its option's range."""
    assert set(ROWS) == {*FLOW_FAMILIES, "sd1", "sd2", "sdxl", "tiny", "tiny_flow", "other_flow", "other_diffusion"}
    for family in ROWS:
        open_job = JobConfig(
            name="a", model=ModelConfig(name_or_path="m"), pairs=(PromptPair(target="a", positive="b"),)
        )
        filled = with_defaults(open_job, family).job
        assert JobConfig.model_validate_json(filled.model_dump_json()) == filled


@pytest.mark.parametrize(
    ("pairs", "kind"),
    [
        ([("erase", 1), ("enhance", -1)], "slider"),
        ([("erase", 1), ("erase", 2)], "erase"),
        ([("enhance", 1)], "enhance"),
    ],
)
def test_what_is_trained_is_told_by_the_pairs(pairs, kind: str):
    """Both signs of the LoRA are a slider."""
    made = [PromptPair(target="a", positive="b", action=action, multiplier=sign) for action, sign in pairs]
    assert kind_of(made) == kind


def test_the_page_of_settings_has_the_table():
    """docs/settings.md holds what `python -m leco_plugin.config.defaults` prints."""
    assert page() in (ROOT / "docs" / "settings.md").read_text("utf-8")
