"""The model that is shipped: complete, small, scaled like SD, and it draws what it is told."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from leco_plugin.tiny import MODEL_FOLDER
from leco_plugin.tiny.measure import count_right, evenly, grid, main, sample
from leco_plugin.tiny.pictures import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    Attributes,
    all_attributes,
    full_prompt,
    picture,
)
from leco_plugin.tiny.reader import Reading, read
from leco_plugin.tiny.stages import encode


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusionPipeline.from_pretrained(MODEL_FOLDER, safety_checker=None)


def header(file):
    """What a safetensors file says of its tensors."""
    content = file.read_bytes()
    said = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: tensor for name, tensor in said.items() if name != "__metadata__"}


def test_the_model_is_small_and_half_precision():
    """The whole folder stays within 8 MB, every weight is float16, and the rest is JSON and the merges."""
    files = [file for file in MODEL_FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    assert {file.suffix for file in files} == {".safetensors", ".json", ".txt"}
    weights = [header(file) for file in files if file.suffix == ".safetensors"]
    assert {tensor["dtype"] for part in weights for tensor in part.values()} == {"F16"}


def test_the_scaling_factor_is_that_of_sd(pipeline):
    """Exactly 0.18215, and it matters: latents times it have unit std, latents alone do not."""
    assert pipeline.vae.config.scaling_factor == 0.18215
    rng = np.random.default_rng(1)
    pixels = torch.from_numpy(np.stack([picture(one, rng) for one in all_attributes()[::5]]))
    mean, std = encode(pipeline.vae, pixels)
    latents = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    assert latents.std().item() * 0.18215 == pytest.approx(1.0, abs=0.05)


def test_the_vae_gives_back_what_it_is_given(pipeline):
    """A picture that went through the latents still reads as drawn."""
    rng = np.random.default_rng(2)
    wanted = all_attributes()[::7]
    pixels = torch.from_numpy(np.stack([picture(one, rng) for one in wanted]))
    with torch.no_grad():
        decoded = pipeline.vae.decode(encode(pipeline.vae, pixels)[0]).sample
    back = ((decoded.permute(0, 2, 3, 1) + 1) * 127.5).clamp(0, 255).byte().numpy()
    report = count_right(wanted, [read(one) for one in back])
    assert report.all_four.right >= 0.9 * report.all_four.count


def test_the_noise_is_that_of_sd(pipeline):
    """Epsilon prediction on SD 1.x's schedule, whose first and last noise levels are well known."""
    config = pipeline.scheduler.config
    assert (config.prediction_type, config.steps_offset, config.set_alpha_to_one) == ("epsilon", 1, False)
    assert pipeline.scheduler.alphas_cumprod[0].item() == pytest.approx(0.99915, abs=1e-5)
    assert pipeline.scheduler.alphas_cumprod[999].item() == pytest.approx(0.00466, abs=1e-5)


def test_all_parts_load_in_one_precision(pipeline):
    """A plain from_pretrained mixes no precisions, or the first prompt would fail."""
    assert {pipeline.unet.dtype, pipeline.text_encoder.dtype, pipeline.vae.dtype} == {torch.float32}


def test_old_versions_find_the_names_they_know():
    """Text weights carry text_model., and the tokenizer has the two files that came before tokenizer.json."""
    weights = header(MODEL_FOLDER / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in weights)
    names = {file.name for file in (MODEL_FOLDER / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"} <= names


def test_every_word_of_the_little_world_is_one_token(pipeline):
    """Start, the word, end; an unknown word is spelt out."""
    for word in (*BACKGROUNDS, *COLOURS, *SHAPES, *SIZES, *["a", "the", "of", "on", "shape", "picture", "background"]):
        assert len(pipeline.tokenizer(word).input_ids) == 3, word
    assert pipeline.tokenizer.model_max_length == 77
    assert len(pipeline.tokenizer("dog").input_ids) == 5


def test_a_few_prompts_give_what_they_say():
    """Each colour, size, shape and background is drawn as told."""
    wanted = [
        Attributes("star", "red", "big", "white"),
        Attributes("circle", "orange", "medium", "gray"),
        Attributes("square", "yellow", "small", "black"),
        Attributes("triangle", "green", "big", "black"),
        Attributes("cross", "blue", "big", "gray"),
        Attributes("triangle", "purple", "small", "white"),
    ]
    pictures = sample(MODEL_FOLDER, [full_prompt(one) for one in wanted], guidance=3.5, steps=20, seed=0)
    seen = [read(one) for one in pictures]
    assert [Attributes(one.shape, one.colour, one.size, one.background) for one in seen] == wanted


def test_combinations_are_asked_for_evenly():
    """Of 300 prompts each combination comes once and thirty come twice."""
    wanted = evenly(300, seed=5)
    counts = [wanted.count(one) for one in all_attributes()]
    assert (len(wanted), min(counts), max(counts)) == (300, 1, 2)


def test_the_report_counts_what_is_right():
    """Two pictures, one of them with the wrong colour and size."""
    wanted = [Attributes("star", "red", "big", "white"), Attributes("star", "blue", "small", "white")]
    seen = [
        Reading("red", 0.0, "big", 900.0, "star", "white"),
        Reading("red", 0.0, "big", 900.0, "star", "white"),
    ]
    report = count_right(wanted, seen)
    right = {name: (share.right, share.count) for name, share in report.attributes.items()}
    assert right == {"colour": (1, 2), "background": (2, 2), "size": (1, 2), "shape": (2, 2)}
    assert (report.values["colour"]["blue"].right, report.values["colour"]["blue"].count) == (0, 1)
    assert (report.all_four.right, report.all_four.count) == (1, 2)
    assert report.lines()[0].split() == ["colour", "50.0", "%", "(1", "of", "2)"]


def test_the_grid_holds_every_picture():
    """20 pictures of 64 pixels make two rows of 18 with a pixel of frame around each."""
    assert grid(np.zeros((20, 64, 64, 3), np.uint8)).size == (18 * 66, 2 * 66)


def test_measuring_prints_json_and_draws_the_grid(tmp_path, capsys):
    """``--json`` prints figures that add up, ``--picture`` writes the pictures."""
    arguments = ["--prompts", "2", "--steps", "2", "--threads", "1", "--json", "--picture", str(tmp_path / "grid.png")]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["all_four"]["count"] == 2
    assert (tmp_path / "grid.png").stat().st_size > 0


def test_measuring_no_model_is_refused_in_one_sentence(tmp_path, capsys):
    """A folder without a model ends with exit code 2."""
    assert main(["--model", str(tmp_path), "--threads", "1"]) == 2
    said = capsys.readouterr().err
    assert said == f"{tmp_path} is no diffusers folder: it has no model_index.json\n"


@pytest.mark.parametrize("wrong", [["--prompts", "0"], ["--guidance", "nan"], ["--steps", "many"], ["--seed", "-1"]])
def test_measuring_refuses_wrong_numbers_in_one_sentence(wrong, capsys):
    """The option and the reason stand in one line, and the exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert wrong[0] in said
