"""The making of the tiny model: it repeats, it goes on after a cut, and it writes a model that loads."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import nn

from leco_plugin.errors import TrainingError
from leco_plugin.tiny.architecture import new_vae, scale_latents
from leco_plugin.tiny.fit import Dice, Score, Stage, fit
from leco_plugin.tiny.train import main

SMALL = ["--pictures", "16", "--vae-steps", "2", "--decoder-steps", "1", "--unet-steps", "4", "--threads", "1"]


def stage(**changes):
    settings = {"name": "line", "seed": 1, "steps": 450, "batch": 8, "learning_rate": 0.02, "after": "nothing"}
    return Stage(**{**settings, **changes})


class Line:
    """Learns y = 3 x; can be cut off before a given step."""

    def __init__(self, cut_at=None):
        self.model, self.cut_at, self.taken = nn.Linear(1, 1, bias=False), cut_at, 0
        nn.init.zeros_(self.model.weight)

    def score(self, step, dice):
        if step == self.cut_at:
            raise KeyboardInterrupt
        self.taken += 1
        x = torch.randn(8, 1, generator=dice.torch)
        error = (self.model(x) - 3.0 * x).pow(2).mean()
        return Score(error, error.detach())

    def fit(self, folder, **changes):
        fit(stage(**changes), self.model, self.score, folder)
        return self.model.weight.item()


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """The same small making, twice from nothing."""
    folders = [tmp_path_factory.mktemp("run") for _ in range(2)]
    before = torch.get_num_threads()
    torch.manual_seed(123)
    state = torch.get_rng_state()
    for folder in folders:
        assert main(["--output", str(folder), "--seed", "4", *SMALL]) == 0
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used up"
    torch.set_num_threads(before)
    return folders


def test_the_same_seed_makes_the_same_bytes(two_runs):
    """Every file of the model is the same in both runs, weights included."""
    first, second = (
        {file.relative_to(run / "model"): file.read_bytes() for file in (run / "model").rglob("*") if file.is_file()}
        for run in two_runs
    )
    assert sum(file.suffix == ".safetensors" for file in first) == 3
    assert first == second


def test_the_made_folder_loads_and_draws(two_runs):
    """Even after a few steps it is a whole pipeline with SD's scaling factor and a picture of 64 x 64."""
    pipeline = StableDiffusionPipeline.from_pretrained(two_runs[0] / "model", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert pipeline("a red star", num_inference_steps=1).images[0].size == (64, 64)


def test_training_moves_every_part(two_runs):
    """Encoder, decoder, UNet and text encoder leave their known starts (norms at 1, last layers at 0)."""
    vae, decoder, unet = (
        load_file(two_runs[0] / "stages" / f"{name}.safetensors") for name in ("vae", "decoder", "unet")
    )
    assert (vae["encoder.conv_norm_out.weight"] != 1).any()
    assert (decoder["decoder.conv_norm_out.weight"] != vae["decoder.conv_norm_out.weight"]).any()
    assert torch.equal(decoder["encoder.conv_norm_out.weight"], vae["encoder.conv_norm_out.weight"])
    assert unet["unet.conv_out.weight"].any()
    text_norm = next(weight for name, weight in unet.items() if name.endswith("final_layer_norm.weight"))
    assert (text_norm != 1).any()


def test_finished_stages_are_not_made_again(two_runs, capsys):
    """A second run on the same folder takes the stages as they are."""
    assert main(["--output", str(two_runs[1]), "--seed", "4", *SMALL]) == 0
    said = capsys.readouterr().out
    assert said.count("is finished already") == 3
    assert "s/step" not in said


@pytest.mark.parametrize("change", [["--seed", "5"], ["--unet-steps", "3"], ["--pictures", "17"]])
def test_stages_of_other_settings_are_refused_in_one_sentence(two_runs, change, capsys):
    """A folder made with other settings is not mixed in: exit code 2 and the file's name."""
    assert main(["--output", str(two_runs[1]), "--seed", "4", *SMALL, *change]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "stages" in said


@pytest.mark.parametrize("wrong", [["--unet-steps", "0"], ["--seed", "x"], ["--steps", "5"]])
def test_wrong_arguments_are_refused_in_one_sentence(wrong, tmp_path, capsys):
    """The reason stands in one line, and the exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        main(["--output", str(tmp_path), *SMALL, *wrong])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_stage_that_was_cut_ends_as_if_it_was_not(tmp_path):
    """Cut at step 250, it goes on from 200 and leaves the very weights of an uncut run."""
    whole = Line().fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        Line(cut_at=250).fit(tmp_path / "cut")
    rest = Line()
    assert rest.fit(tmp_path / "cut") == whole
    assert rest.taken == 450 - 200
    assert [file.name for file in (tmp_path / "cut").iterdir()] == ["line.safetensors"]


def test_a_stage_learns(tmp_path):
    """The loop finds the slope that the pictures of its error have."""
    assert Line().fit(tmp_path) == pytest.approx(3.0, abs=0.05)


def test_a_stage_cut_under_other_settings_is_refused(tmp_path):
    """The half-made file of a shorter schedule is not taken for this one."""
    with pytest.raises(KeyboardInterrupt):
        Line(cut_at=250).fit(tmp_path)
    with pytest.raises(TrainingError, match="made with steps 450, not 900"):
        Line().fit(tmp_path, steps=900)


def test_only_the_named_parameters_are_trained(tmp_path):
    """What is not in ``trained`` stays as it was, to the bit."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    before = model[0].weight.detach().clone()

    def score(_step, dice):
        error = (model(torch.randn(8, 1, generator=dice.torch)) - 1.0).pow(2).mean()
        return Score(error, error.detach())

    fit(stage(steps=20), model, score, tmp_path, list(model[1].parameters()))
    assert torch.equal(model[0].weight, before)
    assert not torch.equal(model[1].weight, torch.zeros(1, 1))


def test_the_rate_follows_the_steps():
    """It warms up, peaks, and ends at the floor."""
    one = stage(steps=1000, learning_rate=1e-3, warmup=100, floor=1e-5)
    assert one.rate(0) == pytest.approx(1e-5 + 1e-5)
    assert one.rate(500) == pytest.approx(5e-4 + 1e-5)
    assert one.rate(1000) == pytest.approx(1e-5)


def test_every_step_throws_its_own_dice():
    """Seed, stage and step each change the numbers; the same three repeat them."""

    def throw(*place):
        dice = Dice.of(*place)
        return dice.numpy.integers(2**40), torch.randint(2**40, (1,), generator=dice.torch).item()

    assert throw(1, "vae", 7) == throw(1, "vae", 7)
    assert len({throw(1, "vae", 7), throw(2, "vae", 7), throw(1, "unet", 7), throw(1, "vae", 8)}) == 4


def test_scaled_latents_decode_to_the_same_picture():
    """Mean and std grow by the factor, and the decoder undoes it."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        vae = new_vae().eval()
        for weights in (vae.quant_conv, vae.post_quant_conv):
            nn.init.normal_(weights.bias)
        images = torch.rand(2, 3, 64, 64) * 2 - 1
        before = vae.encode(images).latent_dist
        picture = vae.decode(before.mean).sample
        scale_latents(vae, 5.5)
        after = vae.encode(images).latent_dist
        assert torch.allclose(after.mean, 5.5 * before.mean, atol=1e-4)
        assert torch.allclose(after.std, 5.5 * before.std, rtol=1e-4)
        assert torch.allclose(vae.decode(after.mean).sample, picture, atol=1e-4)


def test_configs_hold_only_what_old_versions_know(two_runs):
    """No key of a later diffusers, which an earlier one would warn about."""
    config = json.loads((two_runs[0] / "model" / "vae" / "config.json").read_text())
    assert "latents_mean" not in config
    assert "scaling_factor" in config
