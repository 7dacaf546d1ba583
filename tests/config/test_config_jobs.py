"""Job files become one frozen job, or a list of what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pydantic
import pytest

from leco_plugin.config import schema
from leco_plugin.config.build import Loaded, LoadedPrompts, load, load_job, load_prompts, parse_overrides
from leco_plugin.config.editors import schema_file
from leco_plugin.config.files import read_document
from leco_plugin.config.optimizers import OPTIMIZERS
from leco_plugin.config.schema import PromptPair
from leco_plugin.errors import ConfigError, Problem

JOB = """\
job: extension
config:
  name: size
  process:
    - type: leco
      model: {name_or_path: builtin:tiny}
      train: {lr: 1e-4, steps: 1e2, dtype: bfloat16}
      save: {dtype: fp16}
      leco:
        prompts_file: p.toml
        max_denoising_steps: 20
"""
PROMPTS = '[[prompts]]\ntarget = "a"\n'


def write(folder: Path, text: str = JOB, prompts: str = PROMPTS) -> Path:
    (folder / "p.toml").write_text(prompts)
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def problems(path: Path, overrides: dict[str, object] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_job(path, overrides)
    return caught.value.problems


def test_a_job_is_read_with_its_prompts_and_defaults(tmp_path: Path):
    """Given values count, all others have their defaults; the prompt file is found beside the job."""
    job = load_job(write(tmp_path)).job
    assert (job.name, job.model.name_or_path) == ("size", "builtin:tiny")
    assert (job.train.lr, job.train.steps, job.train.dtype, job.save.dtype) == (1e-4, 100, "bf16", "float16")
    assert (job.leco.max_denoising_steps, job.leco.denoise_guidance_scale) == (20, 3.0)
    assert (job.training_folder, job.output_folder) == (Path("output"), Path("output/size"))
    assert [pair.target for pair in job.pairs] == ["a"]


def test_the_same_job_may_be_json(tmp_path: Path):
    """JSON and YAML give equal jobs."""
    yaml_job = load_job(write(tmp_path)).job
    leco = {"prompts_file": "p.toml", "max_denoising_steps": 20}
    process = {"type": "leco", "model": {"name_or_path": "builtin:tiny"}, "save": {"dtype": "float16"}, "leco": leco}
    process["train"] = {"lr": 1e-4, "steps": 100, "dtype": "bf16"}
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"job": "extension", "config": {"name": "size", "process": [process]}}))
    assert load_job(path).job == yaml_job


@pytest.mark.parametrize(
    "inline", ["prompts: [{target: a}]", "targets: [{target: a}]", "target: a", "slider: {targets: [{target: a}]}"]
)
def test_prompts_may_stand_in_the_job(tmp_path: Path, inline: str):
    """All forms of a prompt file, beside the options of the section."""
    path = write(tmp_path, JOB.replace("prompts_file: p.toml", inline))
    assert load_job(path).job.pairs == (PromptPair(target="a", positive="a"),)
    assert load_job(path).job.leco.max_denoising_steps == 20


def test_inline_neutral_files_are_found_beside_the_job(tmp_path: Path):
    """As they are beside a prompt file."""
    (tmp_path / "n.txt").write_text("n1\nn2\n")
    inline = "{target_class: a, positive: b, neutral_prompt_file: n.txt}"
    job = load_job(write(tmp_path, JOB.replace("prompts_file: p.toml", f"slider: {inline}"))).job
    assert [pair.neutral for pair in job.pairs] == ["n1", "n1", "n2", "n2"]


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "says"),
    [
        ("steps: 1e2", "step: 100", 7, "train.step", "did you mean 'steps'"),
        ("steps: 1e2", "steps: 1.5", 7, "train.steps", "whole number"),
        ("steps: 1e2", "steps: true", 7, "train.steps", "whole number, not the switch true"),
        ("steps: 1e2", "steps: 0", 7, "train.steps", "at least 1, not 0"),
        ("1e-4", "'1e-4'", 7, "train.lr", "must be a number, not the text '1e-4'"),
        ("1e-4", ".inf", 7, "train.lr", "finite"),
        ("1e-4", "true", 7, "train.lr", "must be a number"),
        ("bfloat16", "fp8", 7, "train.dtype", "must be fp32 or bf16 or fp16"),
        ("fp16", "bf61", 8, "save.dtype", "must be float32 or float16 or bfloat16, not the text 'bf61'"),
        ("save: {dtype: fp16}", "training_folder: 3", 8, "training_folder", "must be text, not the number 3"),
        ("save: {dtype: fp16}", "device: GPU", 8, "device", "cuda:1"),
        ("save: {dtype: fp16}", "save: 3", 8, "save", "must be a table"),
        ("save: {dtype: fp16}", "sav: {}", 8, "sav", "did you mean 'save'"),
        ("{name_or_path: builtin:tiny}", "{}", 6, "model", "name_or_path is missing"),
        ("builtin:tiny", "''", 6, "model.name_or_path", "must not be empty"),
        ("prompts_file: p.toml", "prompt_files: p.toml", 10, "leco.prompt_files", "did you mean 'prompt"),
        ("prompts_file: p.toml", "prompts_file: [p.toml]", 10, "leco.prompts_file", "name of a prompt file"),
        ("prompts_file: p.toml", "prompts_file: q.toml", 10, "leco.prompts_file", "q.toml: there is no such file"),
        ("max_denoising_steps: 20", "targets: []", 11, "leco.targets", "keep one of the two"),
        ("max_denoising_steps: 20", "max_denoise_steps: 2", 11, "leco.max_denoise_steps", "'max_denoising_steps'"),
        ("max_denoising_steps: 20", "max_denoising_steps: 1", 11, "leco.max_denoising_steps", "at least 2"),
        ("prompts_file: p.toml", "prompts: [{target: 3}]", 10, "leco.prompts[0].target", "must be text"),
        ("        prompts_file: p.toml\n", "", 9, "leco", "there are no prompts"),
    ],
)
def test_a_wrong_value_is_blamed_at_its_line(tmp_path: Path, old: str, new: str, line: int, key: str, says: str):
    """In plain words, with a fix."""
    found = problems(write(tmp_path, JOB.replace(old, new)))
    assert any(
        problem.where
        and (problem.where.line, problem.where.key) == (line, f"config.process[0].{key}")
        and says in f"{problem.message} {problem.fix}"
        and problem.fix
        for problem in found
    ), [str(problem) for problem in found]
    assert not any("pydantic" in str(problem) or "Input should" in str(problem) for problem in found)


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ("job: extension", "job: train", "job", "job: extension"),
        ("job: extension", "jobs: extension", "jobs", "did you mean 'job'"),
        ("config:", "confg:", "", "config is missing"),
        ("  name: size\n", "", "config", "name is missing"),
        ("  name: size\n", "  name: 5\n", "config.name", "must be text"),
        ("  name: size\n", "  name: size\n  device: cpu\n", "config.device", "move it"),
        ("type: leco", "type: lecoo", "config.process[0].type", "must be leco"),
        ("type: leco", "typ: leco", "config.process[0].type", "is missing"),
        ("    - type: leco", "    - type: leco\n    - type: leco", "config.process[1]", "one process"),
        ("job: extension", "job: extension\nmeta: {name: [1]}", "meta.name", "must be text"),
        ("job: extension", "job: extension\nextra: 1", "extra", "unknown key"),
    ],
)
def test_a_wrong_frame_is_blamed_at_its_key(tmp_path: Path, old: str, new: str, key: str, says: str):
    """What stands around the settings is checked as strictly as they are."""
    text = JOB.replace(old, new)
    if "process[1]" in key:
        text = JOB + "    - type: leco\n"
    found = problems(write(tmp_path, text))
    where = [(problem.where.key if problem.where else "", f"{problem.message} {problem.fix}") for problem in found]
    assert any(place == key and says in message for place, message in where), where


@pytest.mark.parametrize(
    "name", ["''", "' '", "a/b", "a\\b", "'a:b'", "..", "con", "NUL.txt", "'a '", "a.", "'a*'", '"a\\tb"', "a" * 201]
)
def test_a_name_must_be_a_file_name_on_every_system(tmp_path: Path, name: str):
    """No folders, no characters that Windows refuses, no device names."""
    (problem,) = problems(write(tmp_path, JOB.replace("name: size", f"name: {name}")))
    assert problem.where
    assert (problem.where.line, problem.where.key) == (3, "config.name")


def test_errors_of_job_and_prompt_file_are_reported_together(tmp_path: Path):
    """Each at its own file and line."""
    path = write(tmp_path, JOB.replace("steps: 1e2", "step: 1"), PROMPTS + "wieght = 1\n")
    places = [(problem.where.file.name, problem.where.line) for problem in problems(path) if problem.where]
    assert places == [("job.yaml", 7), ("p.toml", 3)]


def test_warnings_of_the_prompt_file_come_with_the_job(tmp_path: Path):
    """They do not stop the run."""
    (warning,) = load_job(write(tmp_path, prompts=PROMPTS + "weight = 0\n")).warnings
    assert "weight 0" in warning.message


def test_overrides_replace_single_values(tmp_path: Path):
    """By dotted key below the process; an error in one says where it was set."""
    path = write(tmp_path)
    overrides = parse_overrides(["train.lr=1e-3", "name=other", "training_folder=no", "network.linear = 2"])
    job = load_job(path, overrides).job
    assert (job.train.lr, job.name, job.training_folder, job.network.linear) == (1e-3, "other", Path("no"), 2)
    assert load_job(path).job.name == "size"
    (problem,) = problems(path, {"train.stepz": 3})
    assert str(problem) == "--set train.stepz: unknown key\n  fix: did you mean 'steps'?"
    with pytest.raises(ConfigError, match="sets nothing"):
        parse_overrides(["train.lr"])


def test_meta_is_kept_as_text_and_not_filled_in(tmp_path: Path):
    """ai-toolkit fills [name] in; here it stays what was written."""
    text = JOB + 'meta: {name: "[name]", version: 1.5}\n'
    assert load_job(write(tmp_path, text)).job.meta == {"name": "[name]", "version": "1.5"}


def test_load_tells_a_job_from_prompts(tmp_path: Path):
    """By its keys, not by its ending; asking for the wrong kind is an error."""
    path = write(tmp_path)
    assert isinstance(load(path), Loaded)
    assert isinstance(load(tmp_path / "p.toml"), LoadedPrompts)
    assert "this is a prompt file: " in str(problems(tmp_path / "p.toml")[0])
    with pytest.raises(ConfigError, match="a job, not a prompt file"):
        load_prompts(path)


def test_a_job_cannot_be_changed_afterwards(tmp_path: Path):
    """What was checked stays what it was."""
    job = load_job(write(tmp_path)).job
    with pytest.raises(pydantic.ValidationError):
        job.train.steps = 5  # type: ignore[misc]


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_fp16_weights_need_an_optimizer_that_keeps_no_squares_in_fp16(optimizer: str):
    """The squares of small gradients are 0 there, and dividing by them ended runs at their second step."""
    values = {
        "name": "a",
        "model": {"name_or_path": "builtin:tiny"},
        "network": {"dtype": "fp16"},
        "train": {"optimizer": optimizer},
        "pairs": (schema.PromptPair(target="", positive=""),),
    }
    if "8bit" in optimizer or "paged" in optimizer or optimizer in ("adafactor", "lion", "sgd", "sgdnesterov"):
        schema.JobConfig.model_validate(values)
    else:
        with pytest.raises(pydantic.ValidationError, match=f"optimizer {optimizer} keeps"):
            schema.JobConfig.model_validate(values)


def test_a_pair_comes_back_from_its_own_json():
    """As it stands in a LoRA file's metadata and in a state."""
    pair = PromptPair(target="a", positive="b", resolution=(64, 128))
    assert PromptPair.model_validate_json(pair.model_dump_json()) == pair


def with_line(line: str) -> str:
    return JOB.replace("      leco:\n", f"      {line}\n      leco:\n")


def test_what_the_pages_of_ai_toolkit_look_for_changes_nothing(tmp_path: Path):
    """A job that has it is the job without it; an editor takes it, too."""
    window = "datasets: []\n      sample: {samples: []}\n      logging: {log_every: 1, use_ui_logger: true}"
    plain = load_job(write(tmp_path)).job
    path = write(tmp_path, with_line(window))
    assert load_job(path).job == plain
    jsonschema.validate(read_document(path).tree, json.loads(schema_file("job").read_text("utf-8")))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("datasets: [{folder_path: pictures}]", "must be empty, for LECO trains from prompts alone, not a list"),
        ("logging: {log_every: 10}", "must be 1, as every step is recorded, not the number 10"),
        ("logging: {log_every: true}", "must be 1, as every step is recorded, not the switch true"),
        ("logging: {use_ui_logger: 'yes'}", "must be true or false"),
        ("sample: {prompts: [a], samples: [{prompt: b}]}", "prompts and samples mean the same, and differ"),
    ],
)
def test_what_they_look_for_asks_for_nothing(tmp_path: Path, wrong: str, said: str):
    """Pictures to train on, or steps left out of a graph, are refused at their line."""
    (problem,) = problems(write(tmp_path, with_line(wrong)))
    assert said in problem.message
    assert problem.where is not None
    assert problem.where.line == 9


def test_prompts_and_samples_may_say_the_same(tmp_path: Path):
    """As jobs of ai-toolkit's web UI do."""
    path = write(tmp_path, with_line("sample: {prompts: [a --m 2], samples: [{prompt: a --m 2}]}"))
    assert [one.network_multiplier for one in load_job(path).job.sample.asked] == [2.0]


def test_a_job_for_ai_toolkit_is_told_from_one_with_a_wrong_key(tmp_path: Path):
    """Its other keys would be called unknown, and taken out."""
    model = "model: {name_or_path: a/b, arch: zimage, quantize: true}"
    text = JOB.replace("model: {name_or_path: builtin:tiny}", model)
    (problem,) = problems(write(tmp_path, text))
    assert problem.message == "is a key of ai-toolkit, which this job is for"
    assert problem.fix is not None
    assert problem.fix.startswith("leco check --host ai-toolkit JOB")
