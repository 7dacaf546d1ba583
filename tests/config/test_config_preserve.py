"""Prompts that shall stay as they are: where they may stand, and what they may not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from leco_plugin.config.build import load_job
from leco_plugin.config.sd_scripts import load_flags
from leco_plugin.errors import ConfigError

LISTED = 'preserve = ["a dog", "a cat"]\n'
JOB = """
job: extension
config:
  name: x
  process:
    - type: leco
      model: {name_or_path: "builtin:tiny"}
      leco: {prompts_file: p.toml, preserve: [a bird, a dog]}
"""


@pytest.mark.parametrize(
    "text",
    [
        LISTED + '[[prompts]]\ntarget = "red"\n',
        LISTED + '[[targets]]\ntarget_class = "c"\npositive = "p"\n',
        LISTED + '[[targets]]\ntarget = "red"\n',
        LISTED + 'target = "red"\n',
        LISTED + 'target_class = "c"\npositive = "p"\n',
        "[slider]\n" + LISTED + 'target_class = "c"\npositive = "p"\n',
    ],
)
def test_every_format_takes_them_at_its_top(read_toml, text):
    """In both formats, flat or in a list, and below [slider]."""
    assert read_toml(text).preserve == ("a dog", "a cat")


def test_they_hold_for_all_prompts(refusals):
    """In an entry they would seem to hold for that one."""
    (problem,) = refusals('[[prompts]]\ntarget = "red"\n' + LISTED)
    assert (problem.where.line, problem.where.key) == (3, "prompts[0].preserve")
    assert "top of the file" in problem.fix


def test_what_is_to_change_cannot_stay(refusals):
    """The target of a pair, unless that pair keeps it itself."""
    (problem,) = refusals('preserve = ["a dog", "red"]\n[[prompts]]\ntarget = "red"\n')
    assert (problem.where.line, problem.where.key) == (1, "preserve[1]")


def test_a_pair_that_keeps_its_target_agrees(read_toml):
    """Guidance 0 and the target as neutral: the same wish in other words."""
    text = 'preserve = ["red"]\n[[prompts]]\ntarget = "red"\nneutral = "red"\nguidance_scale = 0\n'
    assert read_toml(text).preserve == ("red",)


def test_a_list_is_asked_for(refusals):
    """One text alone is most likely a list without its brackets."""
    (problem,) = refusals('preserve = "a dog"\n[[prompts]]\ntarget = "red"\n')
    assert problem.where.key == "preserve"
    assert "neutral" not in problem.fix


def test_each_of_them_counts_once(read_toml):
    """Twice the same prompt would be twice its weight."""
    assert read_toml('preserve = ["a dog", "a dog"]\n[[prompts]]\ntarget = "red"\n').preserve == ("a dog",)


def test_those_below_an_inline_slider_count_too(tmp_path: Path):
    """A job may hold [slider] with all its keys."""
    slider = 'leco: {preserve: [a bird], slider: {preserve: [a dog], target_class: "", positive: p}}'
    (tmp_path / "job.yaml").write_text(JOB.replace("leco: {prompts_file: p.toml, preserve: [a bird, a dog]}", slider))
    assert load_job(tmp_path / "job.yaml").job.leco.preserve == ("a bird", "a dog")


def test_those_of_the_job_and_of_its_prompt_file_add_up(tmp_path: Path):
    """Each of them once."""
    (tmp_path / "p.toml").write_text(LISTED + '[[prompts]]\ntarget = "red"\n')
    (tmp_path / "job.yaml").write_text(JOB)
    assert load_job(tmp_path / "job.yaml").job.leco.preserve == ("a bird", "a dog", "a cat")


def test_a_job_that_preserves_its_target_is_refused(tmp_path: Path):
    """At the place in the job."""
    (tmp_path / "p.toml").write_text('[[prompts]]\ntarget = "a bird"\n')
    (tmp_path / "job.yaml").write_text(JOB)
    with pytest.raises(ConfigError) as error:
        load_job(tmp_path / "job.yaml")
    (problem,) = error.value.problems
    assert problem.where is not None
    assert (problem.where.line, problem.where.key) == (8, "config.process[0].leco.preserve[0]")


def test_a_command_line_takes_them_from_its_prompt_file(tmp_path: Path):
    """sd-scripts has no flag for them."""
    (tmp_path / "p.toml").write_text(LISTED + '[[prompts]]\ntarget = "red"\n')
    flags = ["--pretrained_model_name_or_path", "builtin:tiny", "--prompts_file", str(tmp_path / "p.toml")]
    job = load_flags([*flags, "--output_dir", "out", "--output_name", "x"], sdxl=False).job
    assert job.leco.preserve == ("a dog", "a cat")
