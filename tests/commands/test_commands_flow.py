"""Every command on flow models, from the job to the finished file, as users call them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow_models import KINDS, write_flow_model
from safetensors import safe_open

from leco_plugin.commands.main import main
from leco_plugin.config.defaults import ROWS
from leco_plugin.config.families import FLOW_FAMILIES

Folder = Callable[[str], Path]


def job_file(folder: Path, base: Path, **sections: Any) -> Path:
    """A short job; ``sections`` are put into its process."""
    process = {
        "type": "leco",
        "training_folder": str(folder / "runs"),
        "device": "cpu",
        "training_seed": 1,
        "model": {"name_or_path": str(base)},
        "network": {"linear": 2, "linear_alpha": 2},
        "train": {"steps": 2, "lr": 0.01},
        "sample": {"prompts": ["a red circle"], "sample_every": 2, "width": 64, "height": 64, "sample_steps": 2},
        "leco": {
            "max_denoising_steps": 4, "pool_size": 1,
            "targets": [{"target": "a red circle", "positive": "a red circle", "resolution": 64}],
        },
    }  # fmt: skip
    for name, values in sections.items():
        process[name] = {**process.get(name, {}), **values}  # type: ignore[dict-item]
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({"job": "extension", "config": {"name": "short", "process": [process]}}))
    return path


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_works_for_every_family(
    kind: str, flow_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check with the model, train with pictures, all that takes the finished file, and going on from it."""
    base = flow_folder(kind)
    # two steps of an untrained model that is walked at more guidance may lead away from the concept
    walked = {"denoise_guidance_scale": 3.0} if kind == "sd3" else {}
    job, model = job_file(tmp_path, base, leco=walked), ["--model", base, "--device", "cpu"]
    run("check", job, "--model", "--no-estimate")
    assert "contrast" in capsys.readouterr().out
    run("train", job)
    folder = tmp_path / "runs" / "short"
    lora = folder / "short.safetensors"
    with safe_open(lora, "pt") as file:
        said = file.metadata()["modelspec.architecture"]
        family = FLOW_FAMILIES["flux" if kind == "schnell" else kind]
        assert said == ("flux-1-schnell/lora" if kind == "schnell" else f"{family.architecture}/lora")
    assert len(list((folder / "samples").glob("*.png"))) == 2
    run("evaluate", lora, *model, "--seeds", 1, "--strengths", "0,1", "--json", tmp_path / "found.json")
    at_one = json.loads((tmp_path / "found.json").read_text())["files"][0]["by_strength"][1]
    assert at_one["goal_reached"] != 0
    run("inspect", lora)
    assert "rank 2" in capsys.readouterr().out
    run("preview", lora, *model, "--strengths", "0,1", "--steps", 2)
    assert len(list((folder / "short-preview").glob("*.png"))) == 1
    run("report", folder)
    assert "a red circle" in (folder / "short.report.html").read_text("utf-8")
    run("calibrate", lora, *model, "--seeds", 1)
    calibrated = folder / "short-calibrated.safetensors"
    assert calibrated.is_file()
    on = {"network": {"network_weights": str(calibrated), "dim_from_weights": True}, "save": {"overwrite": True}}
    run("train", job_file(tmp_path, base, **on))
    capsys.readouterr()


def left_open(job: Path) -> Path:
    """The job without its numbers of sampler steps."""
    job.write_text("".join(line for line in job.read_text().splitlines(keepends=True) if "_steps:" not in line))
    return job


def checked(job: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(["check", str(job), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_distilled_model_walks_as_it_is_sampled(
    flow_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guidance and steps are its own unless the job says otherwise, and then that is said; `check` tells why."""
    job = left_open(job_file(tmp_path, flow_folder("schnell")))
    found = checked(job, capsys)
    assert found["job"]["leco"]["max_denoising_steps"] == 4
    assert found["job"]["leco"]["denoise_guidance_scale"] == 1
    assert found["job"]["sample"]["guidance_scale"] == 1
    assert found["job"]["sample"]["sample_steps"] == 4
    assert "schnell" in found["flow"]["distilled"]
    assert main(["check", str(job)]) == 0
    assert "walks of 4 steps at guidance 1" in capsys.readouterr().out

    found = checked(job_file(tmp_path, flow_folder("schnell"), leco={"denoise_guidance_scale": 3.0}), capsys)
    assert found["job"]["leco"]["denoise_guidance_scale"] == 3
    assert "sampled without guidance" in found["warnings"][0]["message"]

    found = checked(job_file(tmp_path, flow_folder("schnell"), model={"distilled": False}), capsys)
    assert found["flow"]["distilled"] is None
    assert found["job"]["leco"]["denoise_guidance_scale"] == ROWS["flux"].guidance


def test_a_turbo_is_told_by_its_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Klein and Krea 2 say so in model_index.json."""
    folder = write_flow_model("flux2_klein", tmp_path / "klein", is_distilled=True)
    assert checked(left_open(job_file(tmp_path, folder)), capsys)["job"]["leco"]["max_denoising_steps"] == 4


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("model", {"clip_skip": 2}, "clip_skip means nothing to Z-Image"),
        ("model", {"zero_terminal_snr": True}, "zero_terminal_snr means nothing"),
        ("model", {"is_v_pred": True}, "is_v_pred means nothing"),
        ("model", {"max_token_length": 150}, "max_token_length means nothing"),
        ("train", {"min_snr_gamma": 5.0}, "min_snr_gamma means nothing"),
        ("train", {"noise_scheduler": "euler_a"}, "no way to walk with Z-Image"),
        ("sample", {"sampler": "ddim"}, "no way to walk with Z-Image"),
        ("memory", {"attention": "mem_eff"}, "attention means nothing"),
    ],
)
def test_what_means_nothing_to_a_flow_model_is_refused(
    section: str, values: dict[str, Any], said: str, flow_folder: Folder, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By `check` from the files alone, and by `train` before anything is loaded."""
    job = job_file(tmp_path, flow_folder("z_image"), **{section: values})
    assert said in checked(job, capsys, code=2)["errors"][0]["message"]
    assert main(["train", str(job)]) == 2
    assert said in capsys.readouterr().err


def test_what_is_of_flow_models_is_refused_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that would be read by nobody."""
    for section, values in (("model", {"guidance_embedding": 3.5}), ("memory", {"offload": "layers"})):
        job = job_file(tmp_path, Path("builtin:tiny"), **{section: values})
        assert main(["train", str(job)]) == 2
        assert "mean nothing to a Stable Diffusion 1.x model" in capsys.readouterr().err
