"""The family of a model is found before anything of it is loaded, and is the one that it is loaded as."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from original_layout import original_tensors, write
from small_models import build_pipeline

from leco_plugin.config.schema import JobConfig, ModelConfig, PromptPair
from leco_plugin.families.folder import FolderSource
from leco_plugin.families.known import find_family, lacking_parts, settle


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_folder_and_a_file_are_what_they_are_loaded_as(family: str, tmp_path: Path):
    """By config files, by the names of tensors, and without unpickling a .ckpt; whatever they are called."""
    pipeline = build_pipeline(family, tmp_path / "scratch")
    folder = tmp_path / "looks-like-flux-xl"
    pipeline.save_pretrained(folder)
    assert find_family(ModelConfig(name_or_path=str(folder))) == FolderSource(folder).family == family
    for suffix in (".safetensors", ".ckpt"):
        path = write(tmp_path / f"model{suffix}", original_tensors(pipeline, family))
        assert find_family(ModelConfig(name_or_path=str(path))) == family


def test_a_flow_model_is_known_by_its_index(flow_folder: Callable[[str], Path]):
    """Its walks are its own where it is distilled, whatever the family's row says."""
    job = JobConfig(
        name="a",
        model=ModelConfig(name_or_path=str(flow_folder("schnell"))),
        pairs=(PromptPair(target="a", positive="b"),),
    )
    found = settle(job)
    assert (found.family, found.title) == ("flux", "FLUX.1")
    assert (found.job.leco.max_denoising_steps, found.job.leco.denoise_guidance_scale) == (4, 1)
    assert found.job.network.linear == 16


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd1"),
        ("stabilityai/stable-diffusion-2-1", "sd2"),
        ("Tongyi-MAI/Z-Image-Turbo", "z_image"),
        ("black-forest-labs/FLUX.1-dev", "flux"),
        ("black-forest-labs/FLUX.2-klein-4B", "flux2_klein"),
        ("stabilityai/stable-diffusion-3.5-medium", "sd3"),
        ("Qwen/Qwen-Image", "qwen_image"),
        ("somebody/something", None),
        ("builtin:tiny", "tiny"),
    ],
)
def test_a_model_of_the_hub_that_is_not_here_is_known_by_its_name(name: str, family: str | None):
    """Or not at all."""
    assert find_family(ModelConfig(name_or_path=name)) == family


def test_what_the_job_says_counts_before_the_name():
    """is_xl and is_v2 are there for that."""
    assert find_family(ModelConfig(name_or_path="my/model", is_xl=True)) == "sdxl"
    assert find_family(ModelConfig(name_or_path="my/model", is_v2=True)) == "sd2"


def test_no_torch_is_needed_for_it():
    """So that a check answers at once."""
    code = (
        "import sys, leco_plugin.families.known; assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "name", ["x" * 300, "x/" * 3000, "~nobody-of-this-name/x", "a\0b"], ids=["long", "deep", "home", "nul"]
)
def test_a_name_that_no_file_can_have_is_of_no_family(name: str):
    """Nothing but an answer, on every system."""
    assert find_family(ModelConfig.model_construct(name_or_path=name)) is None


def test_a_transformer_alone_is_told_before_anything_is_loaded(flow_folder: Callable[[str], Path]):
    """Not where the other parts are named, and not a file that holds a whole model or does not exist."""
    file = flow_folder("z_image") / "transformer" / "diffusion_pytorch_model.safetensors"
    (problem,) = lacking_parts(ModelConfig(name_or_path=str(file)))
    assert "holds the transformer of Z-Image, and the text encoders and the VAE are missing" in problem.message
    assert lacking_parts(ModelConfig(name_or_path=str(file), extras=str(flow_folder("z_image")))) == []
    assert lacking_parts(ModelConfig(name_or_path="none.safetensors")) == []
    assert lacking_parts(ModelConfig(name_or_path=str(flow_folder("z_image") / "vae" / file.name))) == []
