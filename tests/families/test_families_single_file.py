"""Models as one file, read offline and without running code from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import CPU, randn
from original_layout import original_tensors, small_configs, write
from small_models import build_pipeline
from torch import Tensor

from leco_plugin.config.schema import ModelConfig
from leco_plugin.errors import LecoError, ModelError
from leco_plugin.families import offline
from leco_plugin.families.load import load_model
from leco_plugin.families.single_file import FileSource

FAMILIES = ["sd1", "sd2", "sdxl"]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {family: build_pipeline(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture
def small(pipelines: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The package's own data, for models of a few channels."""
    configs = {family: small_configs(pipeline, family) for family, pipeline in pipelines.items()}
    tokenizers = {"!": pipelines["sd2"].tokenizer, "<|endoftext|>": pipelines["sd1"].tokenizer}
    monkeypatch.setattr(offline, "configs", configs.__getitem__)
    monkeypatch.setattr(offline, "clip_tokenizer", tokenizers.__getitem__)
    return pipelines


def load(path: Path, dtype: str = "fp32", **model: Any) -> Any:
    return load_model(ModelConfig(name_or_path=str(path), **model), dtype=dtype, device=CPU)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_the_model_that_it_was_made_from(
    family: str, suffix: str, small: dict[str, Any], tmp_path: Path
):
    """UNet, text encoders and VAE of an original-layout file compute what those of the pipeline compute."""
    pipeline = small[family]
    denoiser = load(write(tmp_path / f"model{suffix}", original_tensors(pipeline, family)))
    assert denoiser.family == family

    for name, weight in pipeline.unet.state_dict().items():
        assert torch.equal(denoiser.module.state_dict()[name], weight), name
    table = denoiser.encode(["red", "a blue star"])
    if family == "sdxl":
        text, _, pooled, _ = pipeline.encode_prompt("a blue star", None, CPU, 1, False)
        torch.testing.assert_close(table.pooled[1:], pooled)
    else:
        text, _ = pipeline.encode_prompt("a blue star", CPU, 1, False)
    torch.testing.assert_close(table.text[1:], text)
    latents = randn(1, 4, 8, 8)
    picture = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close(denoiser.decode(latents), picture)


def test_weights_are_read_in_the_precision_that_is_asked_for(small: dict[str, Any], tmp_path: Path):
    """A file of float16 makes a UNet of bfloat16 where that is asked for."""
    half = {key: tensor.half() for key, tensor in original_tensors(small["sd1"], "sd1").items()}
    denoiser = load(write(tmp_path / "half.safetensors", half), dtype="bf16")

    assert {weight.dtype for weight in denoiser.module.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in denoiser.module.parameters())


def test_a_file_tells_what_it_predicts(small: dict[str, Any], tmp_path: Path):
    """By a tensor called v_pred, or in its metadata; what the job says comes first."""
    tensors = original_tensors(small["sdxl"], "sdxl")
    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    marked = write(tmp_path / "marked.safetensors", {**tensors, **marks})
    said = write(tmp_path / "said.safetensors", tensors, {"modelspec.prediction_type": "v"})
    plain = write(tmp_path / "plain.safetensors", tensors)

    denoiser = load(marked)
    assert denoiser.prediction_type == load(said).prediction_type == "v_prediction"
    assert denoiser.snr(torch.tensor([999])).item() == 0
    assert load(plain).prediction_type == load(said, is_v_pred=False).prediction_type == "epsilon"


@pytest.mark.parametrize(("spread", "prediction"), [(0.2, "v_prediction"), (0.05, "epsilon")])
def test_sd2_tells_by_a_bias(spread: float, prediction: str, small: dict[str, Any], tmp_path: Path):
    """The two models of SD2 are alike but for their weights: one bias spreads more in the v-model."""
    tensors = original_tensors(small["sd2"], "sd2")
    bias = spread * torch.tensor([1.0, -1.0])
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    path = write(tmp_path / "model.safetensors", {**tensors, name: bias})

    assert FileSource(path).marked_prediction == prediction


class Code:
    """What a pickle may hold and that would run when it is read."""

    def __reduce__(self) -> Any:
        return print, ("code from the file was run",)


def test_a_checkpoint_that_holds_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Nothing of it is run, and the error says how to convert it."""
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {}, "callbacks": Code()}, path)

    with pytest.raises(ModelError, match="run code") as error:
        load(path)
    assert "save_file" in str(error.value)
    assert "was run" not in capsys.readouterr().out


def tensor(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"lora_unet_x.lora_down.weight": tensor(1, 1)}, "this is a LoRA: leco inspect"),
        ({"diffusion_model.x.lora_A.weight": tensor(1, 1)}, "this is a LoRA: leco inspect"),
        ({"model.diffusion_model.cap_embedder.0.weight": tensor(1)}, "holds the transformer of Lumina 2"),
        ({"model.diffusion_model.double_blocks.0.x": tensor(1)}, "nothing known"),
        ({"first_stage_model.decoder.conv_in.weight": tensor(1)}, "a VAE alone"),
        ({"model.diffusion_model.input_blocks.0.0.weight": tensor(8, 4, 3, 3)}, "without a text encoder"),
        (
            {
                "model.diffusion_model.input_blocks.0.0.weight": tensor(8, 9, 3, 3),
                "cond_stage_model.transformer.text_model.x": tensor(1),
            },
            "9 input channels",
        ),
        ({"anything": tensor(1)}, "nothing known"),
    ],
)
def test_a_file_of_something_else_is_refused_by_what_it_is(tensors: dict[str, Tensor], said: str, tmp_path: Path):
    """The error says what the file holds."""
    with pytest.raises(LecoError, match=said):
        load(write(tmp_path / "model.safetensors", tensors))


def test_a_file_that_is_not_whole_is_refused(small: dict[str, Any], tmp_path: Path):
    """Cut off, no checkpoint at all, or a weight short: one sentence, and it names the file or the weight."""
    tensors = original_tensors(small["sd1"], "sd1")
    whole = write(tmp_path / "whole.safetensors", tensors).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.ckpt").write_bytes(whole[:1000])
    del tensors["model.diffusion_model.time_embed.0.bias"]
    short = write(tmp_path / "short.safetensors", tensors)
    for path, said in (
        (tmp_path / "cut.safetensors", "cannot be read"),
        (tmp_path / "cut.ckpt", "cut.ckpt"),
        (short, r"time_embedding\.linear_1\.bias"),
    ):
        with pytest.raises(ModelError, match=said):
            load(path)


def test_a_contradiction_names_the_file(small: dict[str, Any], tmp_path: Path):
    """A flag that a single file contradicts is refused with what the file is."""
    path = write(tmp_path / "model.safetensors", original_tensors(small["sdxl"], "sdxl"))

    with pytest.raises(ModelError, match=r"model\.safetensors is an SDXL model"):
        load(path, is_v2=True)


def test_the_packages_own_tokenizer_is_clips():
    """Numbers that CLIP's tokenizer is known by; SD2 pads with another token."""
    tokenizer = offline.clip_tokenizer("<|endoftext|>")

    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.model_max_length) == (49408, 49407, 77)
    assert offline.clip_tokenizer("!").pad_token_id == 0


@pytest.mark.parametrize(("family", "millions"), [("sd1", 859.5), ("sd2", 865.9), ("sdxl", 2567.5)])
def test_the_packages_own_configs_are_those_of_the_families(family: Any, millions: float):
    """A UNet made from them has as many weights as the family's has."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel

    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(offline.configs(family)["unet"])
    assert sum(weight.numel() for weight in unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
