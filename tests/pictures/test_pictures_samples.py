"""Pictures while a run goes on: which, when, where, and that training does not notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import LineModel, Recorder, pair, tiny_job
from PIL import Image
from safetensors.torch import load_file

import leco_plugin
from leco_plugin.config.run import RunDescription
from leco_plugin.config.sample import SampleConfig
from leco_plugin.config.schema import JobConfig
from leco_plugin.errors import ModelError
from leco_plugin.events import PicturesDrawn, RunEnded, Warned
from leco_plugin.pictures.painter import cut
from leco_plugin.pictures.strips import plan_strips
from leco_plugin.plugins import plugin_manager, run_job

SMALL = {"width": 64, "height": 64, "sample_steps": 3, "seed": 7}
# dropout draws from torch's global generator, which a picture must not touch
JOB: dict[str, Any] = {
    "network": {"dropout": 0.3},
    "train": {"steps": 5, "lr": 1e-2},
    "save": {"dtype": "float32"},
}


def plan(*prompts: str, **section: Any) -> list[tuple[Any, ...]]:
    config = SampleConfig.model_validate({"prompts": prompts, **section})
    return [(one.prompt, *one.seeds, one.multipliers) for one in plan_strips(config)]


def test_prompts_that_differ_in_their_multiplier_alone_are_one_strip():
    """As ai-toolkit's users write a slider's samples; the base model is always among them."""
    assert plan("a cat --m -2", "a cat --m 2", "a cat --m -2") == [("a cat", 0, (-2.0, 0.0, 2.0))]
    assert plan("a cat --m 1", "a cat --m 2 --d 5") == [("a cat", 0, (0.0, 1.0)), ("a cat", 5, (0.0, 2.0))]


def test_a_prompt_without_multiplier_has_those_of_the_section():
    """The list, the one number, or 1."""
    assert plan("a") == [("a", 0, (0.0, 1.0))]
    assert plan("a", network_multiplier=0.5) == [("a", 0, (0.0, 0.5))]
    assert plan("a", "b --m 3", multipliers=[2.0, -1.0]) == [("a", 0, (-1.0, 0.0, 2.0)), ("b", 0, (0.0, 3.0))]


def test_a_walking_seed_gives_every_prompt_its_own():
    """Counted from the section's; a seed in a prompt stays."""
    assert [one[1] for one in plan("a", "b --d 9", "c", seed=3, walk_seed=True)] == [3, 9, 5]


def test_what_a_prompt_says_wins_over_the_section():
    """Size, negative prompt, guidance and steps."""
    section = {"width": 64, "height": 64, "neg": "dull", "guidance_scale": 4.0, "sample_steps": 9, "from_step": 2}
    config = SampleConfig.model_validate({"prompts": ["a", "b --w 128 --h 8 --n bad --l 0 --s 3"], **section})
    first, second = plan_strips(config)
    assert (first.negative, second.negative) == ("dull", "bad")
    found = [
        (one.settings.width, one.settings.height, one.settings.guidance_scale, one.settings.steps)
        for one in (first, second)
    ]
    assert found == [(64, 64, 4.0, 9), (128, 8, 0.0, 3)]
    assert first.settings.from_step == second.settings.from_step == 2


class Plugin(Recorder):
    """Records a run, and may bring pictures of its own."""

    def __init__(self, pictures: Any = None) -> None:
        super().__init__()
        self.pictures = pictures

    @leco_plugin.hookimpl
    def leco_observers(self, run: RunDescription) -> list[Recorder]:
        return [self]

    @leco_plugin.hookimpl
    def leco_pictures(self, job: JobConfig) -> Any:
        return self.pictures


def run(folder: Path, plugin: Plugin | None = None, **sections: Any) -> tuple[Path, Plugin]:
    plugin = plugin or Plugin()
    result = run_job(tiny_job(folder, **{**JOB, **sections}), manager=plugin_manager([plugin], installed=False))
    return result.path, plugin


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plugin]:
    """Five steps, with pictures before, after every second one and at the end."""
    section = {**SMALL, "sample_every": 2, "prompts": ["red star --m -8", "red star --m 8", "blue circle --m 8"]}
    return run(tmp_path_factory.mktemp("sampled"), sample=section)


def test_training_does_not_notice_that_pictures_are_drawn(sampled, tmp_path):
    """The same weights, bit for bit, as without them; only the thumbnail in the metadata tells."""
    state = torch.get_rng_state()
    plain, _ = run(tmp_path)
    weights, drawn = load_file(plain), load_file(sampled[0])
    assert weights.keys() == drawn.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in drawn.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_pictures_are_drawn_before_between_and_after(sampled):
    """Two strips each time, in the folder samples; observers hear of each file once it is there."""
    path, plugin = sampled
    drawn: list[PicturesDrawn] = plugin.of(PicturesDrawn)
    assert [event.step for event in drawn] == [0, 0, 2, 2, 4, 4, 5, 5]
    assert [(event.number, event.of) for event in drawn] == [(1, 2), (2, 2)] * 4
    assert all(event.path.parent == path.parent / "samples" and event.path.is_file() for event in drawn)
    assert {event.path.name for event in drawn} == {file.name for file in (path.parent / "samples").iterdir()}
    assert drawn[0].prompt == "red star"
    assert (drawn[0].seeds, drawn[0].multipliers) == ((7,), (-8.0, 0.0, 8.0))


def columns(event: PicturesDrawn) -> list[np.ndarray]:
    with Image.open(event.path) as sheet:
        (row,) = cut(sheet.convert("RGB"), 1, len(event.multipliers))
    return [np.asarray(picture).astype(int) for picture in row]


def test_a_strip_shows_what_the_lora_does_and_the_base_model(sampled):
    """Before training all strengths agree; afterwards the base model's picture is as it was, the others are not."""
    before, *_, after = (columns(event) for event in sampled[1].of(PicturesDrawn) if event.number == 1)
    assert np.array_equal(before[0], before[1])
    assert np.array_equal(before[1], before[2])
    assert np.array_equal(before[1], after[1])
    assert np.abs(after[0] - after[1]).max() > 10
    assert np.abs(after[2] - after[0]).max() > 10


class Failing:
    """Draws once, then the disk is full."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def draw(self, step: int) -> Iterator[PicturesDrawn]:
        self.asked.append(step)
        yield PicturesDrawn(Path("one.png"), step, "", (0,), (0.0,), 1, 2)
        if step:
            raise OSError("no space left")


def test_a_fault_in_drawing_is_reported_once_and_training_goes_on(tmp_path):
    """A plugin's own pictures replace the built-in ones; after a failure it is not asked again."""
    failing = Failing()
    path, plugin = run(tmp_path, Plugin(failing), sample={"sample_every": 1})
    assert failing.asked == [0, 1]
    (warned,) = (event for event in plugin.of(Warned) if "pictures could not" in event.message)
    assert "no space left" in warned.message
    assert path.is_file()
    assert plugin.of(RunEnded)[0].steps == 5


class LinePlugin:
    """A model that cannot draw."""

    def __init__(self) -> None:
        self.model = LineModel()

    @leco_plugin.hookimpl
    def leco_load_model(self) -> LineModel:
        return self.model

    @leco_plugin.hookimpl
    def leco_create_network(self) -> Any:
        return self.model.network


@pytest.mark.parametrize(
    ("plugins", "section", "message"),
    [([LinePlugin()], {}, "draws no pictures"), ([], {"sample_steps": 1000, "sampler": "ddim"}, "1000")],
)
def test_what_cannot_be_drawn_is_said_before_the_first_step(tmp_path, plugins, section, message):
    """A model without pictures, and a sampler that cannot take so many steps."""
    job = tiny_job(tmp_path, pairs=[pair()], sample={"prompts": ["1"], **SMALL, **section})
    with pytest.raises(ModelError, match=message):
        run_job(job, manager=plugin_manager(plugins, installed=False))
