"""Jobs of flow models: to ai-toolkit with the name that it has for the family, and back."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from convert_results import Convert
from leco_converters import Conversion, Request, convert

from leco_plugin.config.build import load_job
from leco_plugin.config.families import FLOW_FAMILIES, FlowFamily
from leco_plugin.errors import ConfigError
from leco_plugin.families.known import find_family, settle

PROMPTS = "resolution: 512, guidance_scale: 1, targets: [{target_class: a, positive: b}]"
ARCHS = [(family, arch) for family in FLOW_FAMILIES.values() for arch in family.archs]
HUB = {
    "Tongyi-MAI/Z-Image-Turbo": "zimage", "black-forest-labs/FLUX.1-schnell": "flux",
    "black-forest-labs/FLUX.2-dev": "flux2", "black-forest-labs/FLUX.2-klein-base-9B": "flux2_klein_9b",
    "Qwen/Qwen-Image": "qwen_image", "krea/Krea-2-Raw": "krea2", "lodestones/Chroma1-HD": "chroma",
    "stabilityai/stable-diffusion-3.5-medium": "sd3", "Alpha-VLLM/Lumina-Image-2.0": "lumina2",
    "fal/AuraFlow-v0.3": "auraflow",
}  # fmt: skip


def folder(at: Path, family: FlowFamily, *, double_blocks: int = 5) -> Path:
    """The config files of a model, which tell its family."""
    (at / "transformer").mkdir(parents=True)
    (at / "model_index.json").write_text(json.dumps({"_class_name": family.pipeline}))
    config = {"_class_name": family.transformer, "num_layers": double_blocks}
    (at / "transformer" / "config.json").write_text(json.dumps(config))
    return at


def our_job(path: Path, model: dict[str, Any], **sections: object) -> Path:
    process = {"type": "leco", "model": model, **sections, "leco": yaml.safe_load(f"{{{PROMPTS}}}")}
    path.write_text(yaml.safe_dump({"job": "extension", "config": {"name": "n", "process": [process]}}))
    return path


def process_of(conversion: Conversion) -> dict[str, Any]:
    """The process of the job that was written."""
    tree = yaml.safe_load(conversion.written[-1].read_text())
    process: dict[str, Any] = tree["config"]["process"][0]
    return process


def notes(conversion: Conversion) -> str:
    return "\n".join(map(str, conversion.report.notes))


@pytest.mark.parametrize(("family", "arch"), ARCHS, ids=[arch for _, arch in ARCHS])
def test_a_flow_model_goes_there_under_its_own_name_and_comes_back(family: FlowFamily, arch: str, tmp_path: Path):
    """With the scheduler that it needs, and never as a Stable Diffusion; what trains here again is the same."""
    model = folder(tmp_path / "model", family, double_blocks=8 if arch.endswith("9b") else 5)
    source = our_job(tmp_path / "a.yaml", {"name_or_path": str(model)}, sample={"prompts": ["x"]})
    there = convert(Request(source, tmp_path / "there.yaml", to="ai-toolkit"))
    process = process_of(there)
    assert process["model"] == {"name_or_path": str(model), "arch": arch}
    assert (process["train"]["noise_scheduler"], process["sample"]["sampler"]) == ("flowmatch", "flowmatch")
    assert f"arch: {arch} is written" in notes(there)
    back = load_job(convert(Request(there.written[0], tmp_path / "back.yaml", to="leco-job")).written[0]).job
    assert (back.model.name_or_path, find_family(back.model)) == (str(model), family.name)
    first = settle(load_job(source).job)
    for section, name in (("train", "lr"), ("train", "steps"), ("network", "linear"), ("network", "linear_alpha")):
        assert getattr(getattr(back, section), name) == getattr(getattr(first.job, section), name)
    assert back.leco.max_denoising_steps == first.job.leco.max_denoising_steps
    assert settle(back).flow == first.flow


@pytest.mark.parametrize(("name", "arch"), HUB.items())
def test_a_model_of_the_hub_is_told_by_its_name(name: str, arch: str, to_yaml: Convert):
    """Where its files are not on this disk."""
    result = to_yaml('[[targets]]\ntarget_class = "a"\npositive = "b"\n', model=name)
    process = process_of(result.conversion)
    assert process["model"] == {"name_or_path": name, "arch": arch}
    assert process["train"]["noise_scheduler"] == "flowmatch"


def test_what_the_family_has_by_default_is_written_out_or_said(to_yaml: Convert):
    """A distilled model walks in few steps, and without the guidance that the trainer always walks with."""
    text = '[[targets]]\ntarget_class = "a"\npositive = "b"\n'
    turbo = to_yaml(text, model="x/Z-Image-Turbo").conversion
    assert process_of(turbo)["train"]["max_denoising_steps"] == 8
    assert "denoise_guidance_scale is 1 here" in notes(turbo)
    assert "guidance_scale is 1.5 here for Z-Image" in notes(turbo)
    assert "FLUX.1 is given a guidance of 3.5" in notes(to_yaml(text, model="x/FLUX.1-dev").conversion)
    klein = to_yaml(text, model="black-forest-labs/FLUX.2-klein-9B").conversion
    assert process_of(klein)["train"]["max_denoising_steps"] == 4
    xl = to_yaml(text, model="stabilityai/stable-diffusion-xl-base-1.0").conversion
    process = process_of(xl)
    assert (process["model"]["is_xl"], process["slider"]["resolutions"]) == (True, [[1024, 1024]])
    assert "guidance_scale is 2 here for SDXL" in notes(xl)


@pytest.mark.parametrize("name", ["some/model", "unknown.safetensors"])
def test_a_family_that_cannot_be_known_is_said_to_be_a_guess(name: str, to_yaml: Convert):
    """The report says what to write instead."""
    result = to_yaml('[[targets]]\ntarget_class = "a"\npositive = "b"\n', model=name)
    assert process_of(result.conversion)["model"] == {"name_or_path": name, "is_xl": False}
    assert "write model.arch instead" in notes(result.conversion)


def test_a_size_that_cannot_be_known_is_said_to_be_a_guess(to_yaml: Convert):
    """Both sizes of FLUX.2 klein have a name of their own there."""
    result = to_yaml('[[targets]]\ntarget_class = "a"\npositive = "b"\n', model="me/flux2-klein-mine")
    assert process_of(result.conversion)["model"]["arch"] == "flux2_klein_4b"
    assert any(note.kind == "lost" and "flux2_klein_9b" in note.done for note in result.conversion.report.notes)


@pytest.mark.parametrize("name", ["krea2", "flux2", "chroma"])
def test_a_folder_in_which_the_trainer_finds_nothing_is_named(name: str, tmp_path: Path):
    """It reads these families from their original files alone."""
    model = folder(tmp_path / "model", FLOW_FAMILIES[name])
    source = our_job(tmp_path / "a.yaml", {"name_or_path": str(model)})
    assert "not in this folder" in notes(convert(Request(source, tmp_path / "b.yaml", to="ai-toolkit")))
    (model / "flux2-dev.safetensors").touch()
    found = notes(convert(Request(source, tmp_path / "c.yaml", to="ai-toolkit")))
    assert ("not in this folder" in found) == (name == "chroma")


@pytest.mark.parametrize(
    ("memory", "there", "again"),
    [
        ({"quantize": "int8", "offload": "layers"}, {"quantize": True, "qtype": "int8", "layer_offloading": True}, {}),
        ({"quantize": "fp8"}, {"quantize": True, "qtype": "float8"}, {"fp8_base": True}),
        ({"fp8_base": True}, {"quantize": True}, {}),
    ],
)
def test_what_keeps_a_flow_model_small_goes_there_and_back(
    memory: dict[str, object], there: dict[str, object], again: dict[str, object], tmp_path: Path
):
    """Beside the parts that a single file has not."""
    model = {"name_or_path": "z-image.safetensors", "extras": "Tongyi-MAI/Z-Image"}
    source = our_job(tmp_path / "a.yaml", model, memory=memory)
    result = convert(Request(source, tmp_path / "b.yaml", to="ai-toolkit"))
    written = {"name_or_path": model["name_or_path"], "arch": "zimage", "extras_name_or_path": model["extras"]}
    assert process_of(result)["model"] == {**written, **there}
    back = load_job(convert(Request(result.written[0], tmp_path / "c.toml", job=True)).written[1]).job
    assert back.model.model_dump(exclude_unset=True, mode="json") == model
    assert back.memory.model_dump(exclude_unset=True) == (again or memory)


def test_an_adapter_of_a_distilled_model_goes_there_and_back(tmp_path: Path):
    """Here it can only be added to weights that are not quantized by a library, which the report says."""
    model = {"name_or_path": "x/Z-Image-Turbo", "training_adapter": "a.safetensors"}
    source = our_job(tmp_path / "a.yaml", model, memory={"fp8_base": True})
    result = convert(Request(source, tmp_path / "b.yaml", to="ai-toolkit"))
    assert process_of(result)["model"]["assistant_lora_path"] == "a.safetensors"
    text = result.written[0].read_text().replace("quantize: true", "quantize: true\n        qtype: int8")
    result.written[0].write_text(text)
    again = convert(Request(result.written[0], tmp_path / "c.toml", job=True))
    back = load_job(again.written[1]).job
    assert back.model.training_adapter == Path("a.safetensors")
    assert (back.memory.fp8_base, back.memory.quantize) == (True, None)
    assert "fp8_base is what an adapter can be added to" in notes(again)


def test_four_bits_are_lost_by_name(tmp_path: Path):
    """ai-toolkit has other kinds of them."""
    source = our_job(tmp_path / "a.yaml", {"name_or_path": "x/Z-Image"}, memory={"quantize": "nf4"})
    result = convert(Request(source, tmp_path / "b.yaml", to="ai-toolkit"))
    assert "config.process[0].memory.quantize" in [note.where.key for note in result.report.notes]
    assert "quantize" not in process_of(result)["model"]


def test_a_job_from_there_with_one_file_is_said_to_need_the_other_parts(to_toml: Convert):
    """Its trainer fetches them from a place that it knows."""
    one = {"type": "slider", "model": {"name_or_path": "z.safetensors", "arch": "zimage"},
           "slider": {"targets": [{"positive": "a"}]}}  # fmt: skip
    text = yaml.safe_dump({"job": "train", "config": {"name": "n", "process": [one]}})
    assert "name a diffusers folder of it as model.extras" in notes(to_toml(text, job=True).conversion)


def test_the_command_line_for_sd_scripts_is_that_of_the_model(tmp_path: Path, to_toml: Convert):
    """SDXL has a script of its own, and flow models have none: never a command that would train nothing of it."""
    prompts = "- {target_class: a, positive: b}\n"
    flags = to_toml(prompts, flags=True, model="stabilityai/stable-diffusion-xl-base-1.0").conversion.flags
    assert "sdxl_train_leco.py" in flags
    source = our_job(tmp_path / "a.yaml", {"name_or_path": "Tongyi-MAI/Z-Image"})
    with pytest.raises(ConfigError, match="do not train Z-Image"):
        convert(Request(source, tmp_path / "a.toml", flags=True))


CHECKOUT = os.environ.get("LECO_AI_TOOLKIT", "")


@pytest.mark.ai_toolkit
@pytest.mark.skipif(not CHECKOUT, reason="LECO_AI_TOOLKIT names no folder of ai-toolkit")
def test_the_names_are_those_that_the_real_ai_toolkit_has():
    """Of classes of models in its folder, or of the words that its own class knows."""
    files = (*Path(CHECKOUT, "extensions_built_in").rglob("*.py"), Path(CHECKOUT, "toolkit/config_modules.py"))
    found = {name for path in files for name in re.findall(r"\barch = ['\"](\w+)['\"]", path.read_text("utf-8"))}
    assert {arch for _, arch in ARCHS} <= found
