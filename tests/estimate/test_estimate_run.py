"""What a run is estimated to need, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from models import tiny_job

import leco_plugin.families
from leco_plugin.config.schema import JobConfig
from leco_plugin.estimate.lines import estimate_fields, estimate_lines
from leco_plugin.estimate.run import Estimate, Estimator
from leco_plugin.estimate.trace import Traced

GIB = 2**30
CONFIGS = Path(leco_plugin.families.__path__[0]) / "configs"
BEYOND = 10**400


def config_folder(family: str, folder: Path) -> Path:
    """A full-size model in diffusers layout of which only the configs are there."""
    parts = json.loads((CONFIGS / f"{family}.json").read_text("utf-8"))
    files = {"unet/config.json": parts["unet"], "scheduler/scheduler_config.json": parts["scheduler"]}
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    kinds = ("CLIPTextModel", "CLIPTextModelWithProjection")
    for name, kind, config in zip(("text_encoder", "text_encoder_2"), kinds, parts["text_encoders"], strict=False):
        index[name], files[f"{name}/config.json"] = ["transformers", kind], config
    for name, tree in {**files, "model_index.json": index}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(tree), "utf-8")
    return folder


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory) -> JobConfig:
    folder = config_folder("sdxl", tmp_path_factory.mktemp("sdxl"))
    pairs = [{"target": "a", "positive": "b", "resolution": (1024, 1024)}]
    return tiny_job(folder, model={"name_or_path": str(folder)}, train={"dtype": "bf16"}, device="auto", pairs=pairs)


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    """Traces once for all tests of a model."""
    return Estimator()


def test_sdxl_at_its_own_size_is_what_its_users_know(sdxl, estimator):
    """4.8 GiB of weights in bf16, the larger text encoder in float32, more than 12 GB without checkpointing."""
    parts = estimator.estimate(sdxl)
    assert parts.model == 2 * 2_567_463_684
    assert parts.text_encoders == 4 * 694_659_840
    assert 12 * GIB < parts.peak < 16 * GIB


def test_what_would_make_it_fit_is_tried_in_order_of_its_cost(sdxl, estimator):
    """Only what is needed is named, and the estimate is that with it."""
    options, then = estimator.what_fits(sdxl, 11 * GIB)
    assert options == ["train.gradient_checkpointing: true"]
    assert then.peak < 11 * GIB < estimator.estimate(sdxl).peak
    options, then = estimator.what_fits(sdxl, 6 * GIB)
    assert options == ["train.gradient_checkpointing: true", "memory.fp8_base: true"]
    assert then.peak < 6 * GIB
    assert estimator.what_fits(sdxl, 100 * GIB)[0] == []


def test_the_free_memory_of_the_card_here_decides(tmp_path, monkeypatch):
    """As nvidia-smi says it; without it, cards of the usual sizes are gone through."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'NVIDIA Test, 12288, 900'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    large = [{"target": "a", "positive": "b", "resolution": (1024, 1024)}]
    job = tiny_job(tmp_path, device="cuda", pairs=large)
    text = "\n".join(estimate_lines(job))
    assert "NVIDIA Test: 0.9 GiB of 12.0 GiB are free; would fit with train.dtype: bf16" in text
    program.write_text("#!/bin/sh\nexit 9\n")
    assert "fits a card of 8, 12, 16, 24 GB" in "\n".join(estimate_lines(job))
    eight = [{**large[0], "batch_size": 32}]
    text = "\n".join(estimate_lines(tiny_job(tmp_path, train={"dtype": "bf16"}, pairs=eight)))
    assert "fits a card of 16, 24 GB" in text
    assert "a card of 8 GB: would fit with train.gradient_checkpointing: true" in text


def test_time_grows_with_the_steps_and_is_said_to_be_rough(tmp_path):
    """About so long on cards by name."""
    text = "\n".join(estimate_lines(tiny_job(tmp_path)))
    assert "within a factor of two" in text
    assert "\n  3 steps: about 1 s on an RTX 3060" in text
    assert "a CPU of eight cores" in text


def test_sizes_between_the_largest_and_the_smallest_are_not_traced(tmp_path, monkeypatch):
    """Their operations are a curve through those of two, which is right within a hundredth."""

    def of(*sides: int) -> Estimate:
        pairs = [{"target": "a", "positive": "b", "resolution": (side, side)} for side in sides]
        return Estimator().estimate(tiny_job(tmp_path, pairs=pairs, train={"steps": 10**9}))

    alone = {side // 8: of(side) for side in (128, 192, 256)}
    traced = []
    cost = Traced.cost
    monkeypatch.setattr(Traced, "cost", lambda self, asked, **more: traced.append(asked) or cost(self, asked, **more))
    mixed = of(128, 192, 256)
    assert sorted((call.shape[-1], call.gradient) for call in traced) == [(16, False), (32, False), (32, True)]
    students = {shape[-1]: count for (shape, gradient), count in mixed.steps.rows.items() if gradient}
    # every size has a step of its own, so many times as it has a student
    expected = sum(students[side] * one.flops for side, one in alone.items())
    assert mixed.flops == pytest.approx(expected, rel=0.05)


def test_five_thousand_pairs_of_one_size_cost_one_trace(tmp_path, monkeypatch):
    """Of a call without gradient and one with it."""
    traced = []
    cost = Traced.cost
    monkeypatch.setattr(Traced, "cost", lambda self, asked, **more: traced.append(asked) or cost(self, asked, **more))
    pairs = [{"target": f"a {n}", "positive": f"b {n}", "resolution": (64, 64)} for n in range(5000)]
    assert "fits_gb" in estimate_fields(tiny_job(tmp_path, pairs=pairs))
    assert len(traced) == 2


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("train", {"steps": BEYOND}),
        ("train", {"gradient_accumulation": BEYOND}),
        ("network", {"linear": BEYOND}),
        ("network", {"conv": BEYOND}),
        ("pairs", {"batch_size": BEYOND}),
        ("pairs", {"resolution": (8 * BEYOND, 8 * BEYOND)}),
        ("pairs", {"resolution": (2**30, 2**30)}),
    ],
    ids=["steps", "accumulation", "rank", "conv", "batch", "resolution", "large resolution"],
)
def test_numbers_beyond_all_bounds_are_answered(tmp_path, section, values):
    """In text of some lines and in JSON, without a traceback, whether or not a job may say them."""
    job = tiny_job(tmp_path)
    old = job.pairs[0] if section == "pairs" else getattr(job, section)
    new = old.model_copy(update=values)
    job = job.model_copy(update={section: (new,) if section == "pairs" else new})
    lines = list(estimate_lines(job))
    assert all(len(line) < 400 for line in lines)
    json.dumps(estimate_fields(job))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("someone/not-in-the-cache", "is not in the hub's cache"),
        ("someone/FLUX.1-dev", "is not in the hub's cache"),
        ("no/such/folder/", "there is no"),
        ("/no/such/file.safetensors", "/no/such/file.safetensors is not a diffusers folder, and there is no such file"),
    ],
)
def test_what_is_not_at_hand_is_said_and_nothing_is_downloaded(name, reason, tmp_path):
    """One line, and the check goes on."""
    job = tiny_job(tmp_path, model={"name_or_path": name})
    (line,) = estimate_lines(job)
    assert "cannot be told" in line
    assert reason in line
    assert "unknown" in estimate_fields(job)


def test_a_checkpoint_or_a_damaged_file_is_not_opened(tmp_path):
    """A pickle tells nothing unless it is loaded."""
    for name, content in {"a.ckpt": b"\x80", "b.safetensors": b"\xff" * 20, "c.safetensors": b""}.items():
        (tmp_path / name).write_bytes(content)
        (line,) = estimate_lines(tiny_job(tmp_path, model={"name_or_path": str(tmp_path / name)}))
        assert "cannot be told" in line
