"""Jobs of ai-toolkit: what LECO takes from them, and what it refuses before a model is loaded."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leco_plugin.config.build import load_job
from leco_plugin.config.yaml_file import parse
from leco_plugin.errors import ConfigError, LecoError, ModelError
from leco_plugin.families.known import settle
from leco_plugin.hosts.ai_toolkit.architectures import DIFFUSION, FLOW, check_architecture
from leco_plugin.hosts.ai_toolkit.metadata import file_metadata
from leco_plugin.hosts.ai_toolkit.settings import HostJob, read_job

JOB = """\
job: extension
config:
  name: big
  process:
    - type: leco
      training_folder: output
      model: {name_or_path: some/model}
      network: {type: lora, linear: 8, linear_alpha: 4}
      train: {steps: 20, lr: 1e-4}
      leco:
        max_denoising_steps: 30
        prompts:
          - {target: red, positive: red}
"""


def read(text: str, *, arch: str = "sd1", **train: Any) -> HostJob:
    """The job as the host hands it over: a tree, and its own settings with their defaults."""
    tree, _ = parse(text, Path("job.yaml"))
    tree = json.loads(json.dumps(tree), object_pairs_hook=OrderedDict)
    given = tree["config"]["process"][0].get("train") or {}
    defaults = {"loss_type": "mse", "noise_offset": 0.0, "min_snr_gamma": None, "noise_scheduler": "ddpm"}
    settings = SimpleNamespace(**{**defaults, **given, **train})
    return read_job(SimpleNamespace(name="big", raw_config=tree), 0, settings, SimpleNamespace(arch=arch))


def on_command_line(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    monkeypatch.setattr("sys.argv", ["run.py", "-n", str(path)])
    return path


def test_the_section_and_the_hosts_own_options_are_taken() -> None:
    """What the host has in its train section is used, not passed over."""
    job = read(JOB, loss_type="mae", noise_offset=0.1, min_snr_gamma=5, noise_scheduler="euler")
    assert [pair.target for pair in job.section.pairs] == ["red"]
    assert job.section.leco.max_denoising_steps == 30
    assert (job.step.loss_type, job.step.noise_offset, job.step.min_snr_gamma) == ("l1", 0.1, 5.0)
    assert job.sampler == "euler"


@pytest.mark.parametrize(
    ("arch", "why"),
    [("omnigen2", "predicts data - noise"), ("prx_pixel", "picture itself"), ("wan22_5b", "video"),
     ("qwen_image_edit", "edits pictures"), ("something_new", "not known to LECO")],
)  # fmt: skip
def test_models_that_predict_something_else_are_refused_by_name(arch: str, why: str) -> None:
    """Before they are loaded, with the names of those that can be trained."""
    with pytest.raises(ModelError, match=f"'{arch}'.*{why}") as refused:
        read(JOB, arch=arch)
    assert "flux" in str(refused.value)


def test_no_family_is_two_things() -> None:
    """Every family that is trained is let through."""
    assert not DIFFUSION & FLOW
    for arch in DIFFUSION | FLOW:
        check_architecture(arch)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("network: {type: lora, linear: 8, linear_alpha: 4}", "trigger_word: a", "no network"),
        ("training_folder: output", "datasets: [{folder_path: a}]", "would ignore datasets"),
        ("lr: 1e-4", "lr: 1e-4, diff_output_preservation: true", "diff_output_preservation means nothing"),
        ("lr: 1e-4", "lr: 1e-4, gradient_accumulation_steps: 4", "drops all gradients but the last"),
        ("lr: 1e-4", "lr: 1e-4, noise_scheduler: flowmatch", "cannot be the sampler of sd1's walks"),
        ("lr: 1e-4", "lr: 1e-4, loss_type: wavelet", "'wavelet' compares pictures"),
    ],
)
def test_options_that_would_do_nothing_are_refused(old: str, new: str, message: str) -> None:
    """Each with what to do instead; the UI's empty datasets and switched-off options are fine."""
    assert old in JOB
    with pytest.raises(ConfigError, match=message) as refused:
        read(JOB.replace(old, new))
    assert "fix:" in str(refused.value)
    read(
        JOB.replace("training_folder: output", "datasets: []").replace("1e-4", "1e-4, diff_output_preservation: false")
    )


def test_flow_models_have_their_own_sampler() -> None:
    """The UI writes flowmatch, an older job ddpm; neither is looked at."""
    for name in ("flowmatch", "ddpm"):
        assert read(JOB, arch="zimage", noise_scheduler=name).section.pairs


def test_an_error_has_the_line_of_the_job_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The host hands on no file; the one on its command line with a job of this name is it."""
    wrong = JOB.replace("max_denoising_steps", "max_denoising_step")
    path = on_command_line(monkeypatch, tmp_path / "job.yaml", wrong)
    with pytest.raises(LecoError) as refused:
        read(wrong)
    assert str(refused.value).startswith(f"{path}:11: config.process[0].leco.max_denoising_step: unknown key\n")
    assert "did you mean 'max_denoising_steps'?" in str(refused.value)


def test_an_error_names_the_key_where_the_file_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another program makes the job."""
    monkeypatch.setattr("sys.argv", ["run.py"])
    with pytest.raises(LecoError) as refused:
        read(JOB.replace("30", "0"))
    assert str(refused.value).startswith("job big: config.process[0].leco.max_denoising_steps: must be at least 2")


def test_a_prompt_file_is_beside_the_job_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And not in the host's folder, where the host runs."""
    text = JOB[: JOB.index("        prompts:")] + "        prompts_file: prompts.toml\n"
    on_command_line(monkeypatch, tmp_path / "jobs" / "job.yaml", text)
    (tmp_path / "jobs" / "prompts.toml").write_text('target_class = "a dog"\npositive = "big"\nnegative = "small"\n')
    assert [pair.multiplier for pair in read(text).section.pairs] == [1.0, 1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    ("argument", "file", "comment"),
    [("size", "config/size.yaml", ""), ("c/size.jsonc", "c/size.jsonc", "// no lines are known\n")],
)
def test_a_prompt_file_is_found_however_the_job_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argument: str, file: str, comment: str
) -> None:
    """By its name alone in the host's config folder, and in a kind of file that only the host reads."""
    text = JOB[: JOB.index("        prompts:")] + "        prompts_file: prompts.toml\n"
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(comment + text)
    (path.parent / "prompts.toml").write_text('target_class = "a dog"\npositive = "big"\nnegative = "small"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["run.py", argument])
    assert len(read(text).section.pairs) == 4


@pytest.mark.parametrize(("name", "arch"), [("ddim", "flux"), ("ddpm", "sd3"), ("euler", "lumina2")])
def test_a_sampler_that_the_host_fails_with_is_refused(name: str, arch: str) -> None:
    """Before the model is loaded, with the right one."""
    with pytest.raises(ConfigError, match=f"noise_scheduler '{name}' is none for {arch}") as refused:
        read(JOB, arch=arch, noise_scheduler=name)
    assert "flowmatch" in str(refused.value)
    assert read(JOB, arch=arch, noise_scheduler="flowmatch").sampler == "flowmatch"


def test_the_job_of_the_page_runs_in_both_hosts(tmp_path: Path) -> None:
    """docs/ai-toolkit.md shows one that either reads, with the same pairs."""
    page = (Path(__file__).parents[2] / "docs" / "ai-toolkit.md").read_text("utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "size.yaml").write_text(text)
    job = settle(load_job(tmp_path / "size.yaml").job).job
    section = read(text, arch="sdxl").section
    assert (section.leco, section.pairs) == (job.leco, job.pairs)
    assert section.leco.preserve == ("a tree",)


@pytest.mark.parametrize(
    ("arch", "strength", "walk"),
    [("sd1", 1.0, 40), ("sdxl", 1.0, 40), ("flux", 1.0, 30), ("zimage", 1.0, 30), ("anima", 1.0, 30)],
)
def test_what_the_section_leaves_open_is_as_the_model_s_family_has_it(arch: str, strength: float, walk: int) -> None:
    """An erase and a slider have their own edit strength; sizes are the family's, since the host has none."""
    text = JOB.replace("        max_denoising_steps: 30\n", "")
    section = read(text, arch=arch, noise_scheduler="flowmatch" if arch == "flux" else "ddim").section
    side = 1024 if arch == "sdxl" else 512
    assert {(pair.guidance_scale, pair.resolution) for pair in section.pairs} == {(strength, (side, side))}
    assert section.leco.max_denoising_steps == walk
    slider = text.replace("prompts:", "targets:").replace(
        "{target: red, positive: red}", "{target_class: a, positive: big, negative: small}"
    )
    found = read(slider, arch=arch, noise_scheduler="flowmatch" if arch == "flux" else "ddim").section
    assert {pair.guidance_scale for pair in found.pairs} == {{"sdxl": 2.0, "flux": 1.0}.get(arch, 1.5)}


def test_the_weight_of_what_is_preserved_is_the_step_s() -> None:
    """As the job says it."""
    assert read(JOB.replace("max_denoising_steps: 30", "preserve_weight: 0.5")).step.preserve_weight == 0.5


def process(**network: Any) -> Any:
    """The host's process with what its files tell of."""
    config = {"type": "lora", "conv": None, "conv_alpha": None, **network}
    train = {"steps": 20, "lr": 1e-4, "lr_scheduler": "constant", "optimizer": "adamw", "gradient_accumulation": 1,
             "gradient_checkpointing": True, "max_grad_norm": 1.0, "min_snr_gamma": None, "noise_offset": 0.0,
             "dtype": "bf16"}  # fmt: skip
    return SimpleNamespace(
        train_config=SimpleNamespace(**train),
        model_config=SimpleNamespace(arch="sd2", is_v_pred=True, name_or_path_original="/home/me/models/mine"),
        network=SimpleNamespace(lora_dim=8, alpha=8, peft_format=True),
        network_config=SimpleNamespace(**config),
        training_seed=7,
    )


def test_a_file_tells_what_the_host_leaves_out() -> None:
    """Rank and the alpha that is really in the file, the family that A1111 looks for, the pairs, and no path."""
    metadata = file_metadata(read(JOB), process(conv=4, conv_alpha=1), 10)
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "8"
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "4"}
    assert (metadata["ss_v2"], metadata["ss_v_parameterization"]) == ("True", "True")
    assert json.loads(metadata["ss_leco_pairs"])[0]["target"] == "red"
    assert (metadata["ss_steps"], metadata["ss_seed"], metadata["ss_sd_model_name"]) == ("10", "7", "mine")
    assert not any("/home" in value for value in metadata.values())
    assert "ss_network_dim" not in file_metadata(read(JOB), process(type="lokr"), 1)
