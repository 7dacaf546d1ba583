"""What no run can mean is refused where it is read, not where it fails."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from leco_plugin.config.build import load_job, load_prompts, parse_overrides
from leco_plugin.config.sd_scripts import load_flags
from leco_plugin.errors import ConfigError

JOB = """\
job: extension
config:
  name: size
  process:
    - type: leco
      model: {{name_or_path: builtin:tiny}}
      leco: {{prompts: [{{target: red}}]}}
      {}
"""


def job(folder: Path, more: str = ""):
    (folder / "job.yaml").write_text(JOB.format(more), "utf-8")
    return load_job(folder / "job.yaml").job


def refusal(folder: Path, more: str) -> str:
    with pytest.raises(ConfigError) as caught:
        job(folder, more)
    (problem,) = caught.value.problems
    return str(problem)


@pytest.mark.parametrize("section", ["network", "memory", "train", "save", "logging", "sample", "model", "leco"])
def test_an_empty_section_is_an_absent_one(tmp_path: Path, section: str):
    """YAML's `train:` with nothing below it; model and leco, which have to be there, are missed as they would be."""
    if section == "model":
        text = JOB.format("").replace("model: {name_or_path: builtin:tiny}", "model:")
        wanted = "config.process[0]: model is missing"
    elif section == "leco":
        text = JOB.format("").replace("leco: {prompts: [{target: red}]}", "leco:")
        wanted = "config.process[0].leco: there are no prompts"
    else:
        assert job(tmp_path, f"{section}:") == job(tmp_path)
        return
    (tmp_path / "job.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_job(tmp_path / "job.yaml")
    assert [wanted in str(problem) for problem in caught.value.problems] == [True]


@pytest.mark.parametrize(
    "more",
    ["train: {optimizer_params: }", "sample: {prompts: }", "network: {only_if_contains: }", "sample: {samples: }"],
)
def test_an_empty_list_or_table_is_an_absent_one(tmp_path: Path, more: str):
    """At any depth."""
    assert job(tmp_path, more) == job(tmp_path)


def test_an_empty_list_in_a_prompt_file_is_an_absent_one(tmp_path: Path):
    """Its single values have to say something."""
    (tmp_path / "p.yaml").write_text("preserve:\nneutrals:\ntargets: [{target_class: a, positive: b}]\n")
    assert len(load_prompts(tmp_path / "p.yaml").pairs) == 2
    (tmp_path / "p.yaml").write_text("prompts: [{target: }]\n")
    with pytest.raises(ConfigError, match="has no value"):
        load_prompts(tmp_path / "p.yaml")


@pytest.mark.parametrize("char", ["\\0", "\\a", "\\x1b", "\\x7f", "\\x85"])
@pytest.mark.parametrize(
    ("more", "key"),
    [
        ('training_folder: "a{}b"', "training_folder"),
        ('device: "a{}b"', "device"),
        ('sample: {{prompts: [a, "a{}b"]}}', "sample.prompts[1]"),
        ('save: {{training_comment: "a{}b"}}', "save.training_comment"),
        ('network: {{network_weights: "a{}b"}}', "network.network_weights"),
    ],
)
def test_a_control_character_is_an_error_at_its_place(tmp_path: Path, more: str, key: str, char: str):
    """Nothing that reads such a text does what was meant."""
    with pytest.raises(ConfigError) as caught:
        job(tmp_path, more.format(char))
    found = [problem for problem in caught.value.problems if "control character" in problem.message]
    assert [problem.where.key for problem in found if problem.where] == [f"config.process[0].{key}"]


def test_a_control_character_in_a_prompt_is_an_error(tmp_path: Path):
    """In a table, in a file of neutrals and on a command line; tabs and line ends may stand."""
    (tmp_path / "n.txt").write_text("good\nbad\x07\n")
    (tmp_path / "p.toml").write_text(
        'target_class = "a\\u0000"\npositive = "b\\tc\\nd"\nneutral_prompt_file = "n.txt"\npreserve = ["\\u001b"]\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_prompts(tmp_path / "p.toml")
    places = [problem.where.key for problem in caught.value.problems if problem.where]
    assert places == ["target_class", "neutral_prompt_file", "preserve[0]"]
    with pytest.raises(ConfigError, match="--training_comment: holds the control character"):
        load_flags(["--training_comment=a\x1b"], sdxl=False)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("network: {linear: 100000000}", "must be at most 8192, not 100000000: a layer has no more directions"),
        ("network: {conv: 9000}", "must be at most 8192, not 9000"),
        ("leco: {prompts: [{target: red, batch_size: 1000000000}]}", "must be at most 1024, not 1000000000: no device"),
        ("leco: {prompts: [{target: red, resolution: 100000}]}", "100000 pixels are more than any model draws"),
        ("train: {steps: 1" + "0" * 400 + "}", "is larger than any number that is meant here"),
        ("train: {lr: 1" + "0" * 400 + "}", "must be a finite number, not the number with too many digits"),
        ("network: {type: dora}", "DoRA is not trained here: ComfyUI, Forge, diffusers and others misread such files"),
    ],
)
def test_what_no_run_can_mean_is_refused_with_the_reason(tmp_path: Path, more: str, says: str):
    """Not by the machine's memory."""
    text = JOB.format(more)
    if more.startswith("leco"):
        text = text.replace("      leco: {prompts: [{target: red}]}\n", "")
    (tmp_path / "job.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_job(tmp_path / "job.yaml")
    (problem,) = caught.value.problems
    assert says in problem.message
    assert problem.fix


@pytest.mark.parametrize("name", ["a-step00000010", "a-state", "a-step00000010-state"])
def test_a_name_is_not_that_of_a_step_or_a_state(tmp_path: Path, name: str):
    """The newest of a run is found by those names."""
    text = JOB.format("").replace("name: size", f"name: {name}")
    (tmp_path / "job.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="the two could not be told apart"):
        load_job(tmp_path / "job.yaml")


def test_a_file_name_that_is_too_long_for_any_file_is_refused(tmp_path: Path):
    """At the key that holds it."""
    text = JOB.format("").replace("prompts: [{target: red}]", f"prompts_file: {'9' * 5000}.toml")
    (tmp_path / "job.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"leco\.prompts_file: .*cannot be read"):
        load_job(tmp_path / "job.yaml")


def test_an_override_with_too_many_digits_is_refused():
    """Python converts no text of such a length to a number."""
    with pytest.raises(ConfigError, match=r"train\.steps: this number has too many digits"):
        parse_overrides([f"train.steps={'9' * 5000}"])


def test_a_list_among_the_optimizer_s_parameters_says_nothing(tmp_path: Path):
    """Neither where it is read nor where it is written out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = job(tmp_path, "train: {optimizer_params: {betas: [0.9, 0.99], eps: 1e-8}}")
        assert found.train.optimizer_params == {"betas": (0.9, 0.99), "eps": 1e-8}
        assert found.model_dump(mode="json")["train"]["optimizer_params"]["betas"] == [0.9, 0.99]
