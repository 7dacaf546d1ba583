"""The built-in flow model: it loads as any Z-Image, draws what it is told, and can be made anew."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import ZImagePipeline
from models import CPU
from safetensors.torch import load_file

from leco_plugin.families.load import load_model
from leco_plugin.tiny import BUILTIN, FLOW_FOLDER, MODEL_FOLDER
from leco_plugin.tiny.measure import count_right, evenly, main, sample
from leco_plugin.tiny.pictures import full_prompt
from leco_plugin.tiny.reader import read
from leco_plugin.tiny.train import main as make

SMALL = ["--flow", "--pictures", "16", "--flow-steps", "3", "--threads", "1"]


def test_the_flow_model_is_small_and_has_no_weights_twice():
    """With the VAE that both share it is 4.5 MB; its own folder has three."""
    files = [file for file in FLOW_FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 3_200_000
    weights = {file.relative_to(FLOW_FOLDER).parts[0] for file in files if file.suffix == ".safetensors"}
    assert weights == {"text_encoder", "transformer"}


def test_it_draws_what_it_is_told():
    """Every colour and background, and nearly every size and shape, over prompts that name all four."""
    wanted = evenly(54, 3)
    pictures = sample(FLOW_FOLDER, [full_prompt(one) for one in wanted], guidance=3.0, steps=14, seed=5)
    report = count_right(wanted, [read(one) for one in pictures])
    assert report.attributes["colour"].right == report.attributes["background"].right == 54
    assert report.attributes["size"].right >= 49
    assert report.attributes["shape"].right >= 46


def test_the_family_finds_it_by_its_name():
    """As a Z-Image, with the latents' offset, which matters: without it black comes out gray."""
    assert BUILTIN["builtin:tiny-flow"] == FLOW_FOLDER
    denoiser = load_model("builtin:tiny-flow", dtype="fp32", device=CPU)
    assert (denoiser.family, denoiser.prediction_type) == ("z_image", "flow")
    assert denoiser.latent_shape(64, 64) == (4, 8, 8)
    vae = json.loads((FLOW_FOLDER / "vae" / "config.json").read_text())
    assert vae["shift_factor"] == pytest.approx(0.28245, abs=1e-4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small making from nothing, whose folder is a whole pipeline."""
    folder, threads = tmp_path_factory.mktemp("flow"), torch.get_num_threads()
    assert make(["--output", str(folder), "--seed", "4", *SMALL]) == 0
    torch.set_num_threads(threads)
    return folder


def test_a_made_folder_loads_and_draws(made):
    """In diffusers' own pipeline; its VAE is the built-in one with the mean of its latents taken off."""
    pipeline = ZImagePipeline.from_pretrained(made / "model")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.vae.config.scaling_factor == 0.18215
    drawn = pipeline("a red star", height=64, width=64, num_inference_steps=1, output_type="np").images
    assert drawn.shape == (1, 64, 64, 3)
    ours = load_file(MODEL_FOLDER / "vae" / "diffusion_pytorch_model.safetensors")
    theirs = load_file(made / "model" / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


def test_the_same_seed_makes_the_same_flow_model(made, tmp_path):
    """To the byte, and from the stages that are there without making them again."""
    threads = torch.get_num_threads()
    assert make(["--output", str(tmp_path), "--seed", "4", *SMALL]) == 0
    torch.set_num_threads(threads)
    place = "model/transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / place).read_bytes() == (made / place).read_bytes()


@pytest.mark.parametrize("arguments", [["--flow", "--unet-steps", "3"], ["--flow-steps", "3"]])
def test_options_of_the_other_model_are_refused(tmp_path, arguments, capsys):
    """One sentence that names the option."""
    assert make(["--output", str(tmp_path), *arguments]) == 2
    assert "means nothing" in capsys.readouterr().err


def test_measure_takes_the_flow_model_by_name(capsys):
    """`python -m leco_plugin.tiny.measure --model builtin:tiny-flow`."""
    threads = torch.get_num_threads()
    few = ["--prompts", "3", "--steps", "6", "--guidance", "3", "--threads", "1"]
    code = main(["--model", "builtin:tiny-flow", *few, "--json"])
    torch.set_num_threads(threads)
    assert code == 0
    assert json.loads(capsys.readouterr().out)["all_four"]["count"] == 3
