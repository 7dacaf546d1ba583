"""The real, unmodified ai-toolkit: ``LECO_AI_TOOLKIT=/path/to/ai-toolkit pytest -m ai_toolkit``."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Recorder, tiny_job
from safetensors import safe_open
from safetensors.torch import load_file
from small_models import build_pipeline, model_folder
from tiny_flow import z_image_folder

import leco_plugin
from leco_plugin.commands import main as cli
from leco_plugin.config.build import build_prompts
from leco_plugin.config.files import Document
from leco_plugin.events import PicturesDrawn, RunEnded, StepDone
from leco_plugin.hookspecs import hookimpl
from leco_plugin.observers.history import history_path, read_history
from leco_plugin.plugins import plugin_manager, run_job

CHECKOUT = os.environ.get("LECO_AI_TOOLKIT")
pytestmark = [
    pytest.mark.ai_toolkit,
    pytest.mark.skipif(not CHECKOUT, reason="LECO_AI_TOOLKIT names no folder of ai-toolkit"),
    # importing the host takes longer than anything it does here
    pytest.mark.timeout(900),
]
PACKAGE = Path(leco_plugin.__file__).parent
TINY = PACKAGE / "tiny" / "model"
RUNNER = Path(__file__).parent / "ai_toolkit_stand_in.py"
LECO: dict[str, Any] = {
    "max_denoising_steps": 6,
    "targets": [
        {
            "target_class": "",
            "positive": "a big shape",
            "negative": "a small shape",
            "resolution": 64,
            "guidance_scale": 1.0,
        },
    ],
}
TRAIN = {
    "steps": 3,
    "lr": 1e-3,
    "optimizer": "adamw",
    "dtype": "fp32",
    "noise_scheduler": "ddim",
    "disable_sampling": True,
}
SAMPLE = {"samples": [{"prompt": "a shape", "width": 64, "height": 64}], "sample_steps": 2, "sample_every": 100}
ENOUGH = {"targets": [{"target": "red", "positive": "red", "resolution": 64}], "walk": "pool", "stop_at": 0.05}
PARITY = {"steps": 21, "min_snr_gamma": 5.0, "noise_offset": 0.05}


@dataclass
class Host:
    """The host's folder, and where jobs and their files go."""

    folder: Path

    def job(self, name: str, model: dict[str, Any], **sections: dict[str, Any]) -> Path:
        """A job file; ``sections`` adds to those that every job has."""
        process: dict[str, Any] = {
            "type": "leco",
            "training_folder": str(self.folder / "out"),
            "training_seed": 5,
            "model": model,
            "network": {"type": "lora", "linear": 4, "linear_alpha": 2},
            "train": TRAIN,
            "save": {"dtype": "float32", "save_every": 2},
            "logging": {"use_ui_logger": True, "log_every": None},
            "leco": LECO,
        }
        for section, values in sections.items():
            process[section] = {**process.get(section, {}), **values}
        process |= process.pop("more", {})
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps({"job": "extension", "config": {"name": name, "process": [process]}}))
        return path

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start the host's own run.py."""
        return subprocess.Popen(
            [sys.executable, str(RUNNER), "run.py", *map(str, arguments)],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: object) -> str:
        """What it printed, to its end."""
        return self.start(*arguments).communicate()[0]

    def file(self, name: str) -> Path:
        return self.folder / "out" / name / f"{name}.safetensors"

    def metadata(self, path: Path) -> dict[str, str]:
        with safe_open(path, "pt") as file:
            return dict(file.metadata())

    def figures(self, name: str, key: str) -> dict[int, float]:
        """By step, from the log that the host's UI shows; the host logs no first step."""
        (log,) = (self.folder / "out" / name).glob("*.db")
        with sqlite3.connect(log) as connection:
            return dict(connection.execute("select step, value_real from metrics where key = ?", (key,)).fetchall())


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host with LECO installed in it for as long as these tests run."""
    assert CHECKOUT
    was_there = (Path(CHECKOUT) / "extensions" / "leco.py").exists()
    assert cli.main(["host", "install", "ai-toolkit", CHECKOUT]) == 0
    yield Host(tmp_path_factory.mktemp("ai_toolkit"))
    if not was_there:
        assert cli.main(["host", "remove", "ai-toolkit", CHECKOUT]) == 0


@pytest.fixture(scope="module")
def built_in(host: Host) -> list[float]:
    """Losses of the same job in the built-in host; it leaves the LoRA that both begin with in ``start``."""

    def losses(name: str, network: dict[str, Any], train: dict[str, Any]) -> list[float]:
        recorder = Recorder()

        class Observers:
            @hookimpl
            def leco_observers(self) -> list[Recorder]:
                return [recorder]

        pairs = build_prompts(Document(Path("prompts"), {"targets": LECO["targets"]})).pairs
        job = tiny_job(
            host.folder,
            name=name,
            model={"name_or_path": str(TINY)},
            network={"linear": 4, "linear_alpha": 2.0, **network},
            train={"lr": 1e-3, "noise_scheduler": "ddim", **PARITY, **train},
            save={"dtype": "float32"},
            leco={"max_denoising_steps": 6},
            pairs=[pair.model_dump() for pair in pairs],
        )
        run_job(job, manager=plugin_manager([Observers()], installed=False))
        return [event.loss for event in recorder.of(StepDone)]

    losses("start", {}, {"steps": 1, "lr": 0.0})
    start = host.folder / "start" / "start.safetensors"
    # the host's AdamW has this eps
    return losses("same", {"network_weights": start}, {"optimizer_params": {"eps": 1e-6}})


@pytest.fixture(scope="module")
def output(host: Host, built_in: list[float]) -> str:
    """What the host says of eight jobs in one process, of which two are refused."""
    start = str(host.folder / "start" / "start.safetensors")
    folder = host.folder / "models"
    sdxl = {"name_or_path": str(model_folder("sdxl", folder / "sdxl")[0]), "arch": "sdxl"}
    sd2_folder = model_folder("sd2", folder / "sd2", prediction_type="v_prediction")[0]
    sd2 = {"name_or_path": str(sd2_folder), "arch": "sd2", "is_v_pred": True}
    pool = {"walk": "pool", "pool_size": 2, "preserve": ["a tree"]}
    flow = {"name_or_path": str(z_image_folder(folder / "zimage")), "arch": "zimage"}
    jobs = [
        host.job("conv", {"name_or_path": str(TINY)}, network={"conv": 2}, train={"steps": 1}),
        host.job("parity", {"name_or_path": str(TINY)}, network={"pretrained_lora_path": start}, train=PARITY),
        host.job("sdxl", sdxl, leco=pool),
        host.job("sd2", sd2, train={"cache_text_embeddings": True}),
        host.job("zimage", flow, train={"min_snr_gamma": 5.0, "disable_sampling": False}, leco=pool, sample=SAMPLE),
        host.job("enough", {"name_or_path": str(TINY)}, train={"steps": 200}, save={"save_every": 1000}, leco=ENOUGH),
        host.job("wan", {"name_or_path": "no/such/model", "arch": "wan21"}),
        host.job("typo", {"name_or_path": "no/such/model"}, leco={"walks": "pool"}),
    ]
    return host.run("--recover", *jobs)


def test_check_imports_the_host(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """In this environment the host's requirements are not installed: it says which, and does not crash."""
    assert cli.main(["host", "check", "ai-toolkit", str(CHECKOUT)]) == 2
    out, err = capsys.readouterr()
    assert f"torch {torch.__version__}" in out
    assert "torchcodec" in out
    assert err.startswith("ai-toolkit cannot be imported: ")


def test_losses_are_those_of_the_built_in_host(host: Host, built_in: list[float], output: str) -> None:
    """Same model, prompts, seed, settings and first weights: the first 21 losses agree."""
    found = host.figures("parity", "loss/loss")
    assert sorted(found) == list(range(1, 21))
    assert [found[step] for step in range(1, 21)] == pytest.approx(built_in[1:], rel=1e-4)
    first = re.search(r"parity: .*?loss: (\S+?)[,\]]", output)
    assert first
    assert float(first[1]) == pytest.approx(built_in[0], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "rank", "alpha", "key"),
    [("conv", 4, 2, "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"),
     ("parity", 4, 2, "lora_unet_mid_block_attentions_0_proj_in.alpha"),
     ("sdxl", 4, 2, "lora_unet_down_blocks_1_attentions_0_proj_in.alpha"),
     ("sd2", 4, 2, "lora_unet_mid_block_attentions_0_proj_in.alpha"),
     ("zimage", 4, 4, "diffusion_model.layers.0.attention.to_q.lora_A.weight")],
)  # fmt: skip
def test_files_are_the_hosts_with_our_metadata(
    host: Host, output: str, name: str, rank: int, alpha: int, key: str
) -> None:
    """Trained: no layer is still what it began as; the alpha told is the one that loaders use."""
    metadata = host.metadata(host.file(name))
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == (str(rank), str(alpha))
    assert metadata["ss_leco_pairs"]
    assert metadata["ss_v2"] == str(name == "sd2")
    with safe_open(host.file(name), "pt") as file:
        assert key in file.keys()  # noqa: SIM118 - this is no dict
        ups = [file.get_tensor(each) for each in file.keys() if "lora_up" in each or "lora_B" in each]  # noqa: SIM118
    assert ups
    assert all(up.isfinite().all() and up.abs().max() > 0 for up in ups)


def test_one_job_leaves_the_next_as_it_would_be(output: str) -> None:
    """The host adds conv layers to a list for good; the job after the one with conv has none of them."""
    counts = [int(count) for count in re.findall(r"create LoRA for U-Net: (\d+) modules", output)]
    assert counts[0] > counts[1] == 84


def test_jobs_that_cannot_be_trained_are_refused_before_a_model_is_loaded(output: str) -> None:
    """With place and fix; there is no such model, so an attempt to load it would be another error."""
    assert "model.arch 'wan21' makes video or sound, not pictures" in output
    unknown = r"typo\.json:\d+: config\.process\[0\]\.leco\.walks: unknown key\n  fix: did you mean 'walk'\?"
    assert re.search(unknown, output)


def test_cache_text_embeddings_lets_go_of_the_encoders(output: str) -> None:
    """Of the one job that has it; the host itself goes by its datasets, and there are none."""
    assert output.count("UNLOADING TEXT ENCODER") == 1
    assert "We dont need the text encoder anymore" in output


def test_a_goal_that_is_reached_ends_the_training(host: Host, output: str) -> None:
    """The host goes through its last steps, with weights that stay; figure and file say when it was."""
    told = re.search(r"LECO: after (\d+) steps .*; no more is trained", output)
    assert told
    assert host.metadata(host.file("enough"))["ss_steps"] == told[1]
    reached = host.figures("enough", "leco/effect")
    assert max(reached) == int(told[1]) - 1
    assert reached[max(reached)] >= 0.05
    losses = host.figures("enough", "loss/loss")
    assert len({losses[step] for step in range(int(told[1]), 200)}) == 1
    tensors = load_file(host.file("enough"))
    longer = {"steps": 203}
    text = host.run(
        host.job("enough", {"name_or_path": str(TINY)}, train=longer, save={"save_every": 1000}, leco=ENOUGH)
    )
    assert "Found step 200 in metadata" in text
    assert "anew" not in text
    assert host.metadata(host.file("enough"))["ss_steps"] == told[1], "a goal that was reached stays so"
    again = load_file(host.file("enough"))
    assert all(torch.equal(tensors[key], again[key]) for key in tensors)


def test_the_host_draws_its_samples(host: Host, output: str) -> None:
    """Before and after the training, with the network as LECO leaves it."""
    names = sorted(path.name for path in (host.folder / "out" / "zimage" / "samples").glob("*.jpg"))
    steps = [found[1] for name in names if (found := re.search(r"_(\d{9})_0\.jpg$", name))]
    assert steps == ["000000000", "000000003"], names


def test_diffusers_loads_the_files(host: Host, output: str, tmp_path: Path) -> None:
    """Every key finds its layer, in Stable Diffusion and in SDXL."""
    for name, family in (("sdxl", "sdxl"), ("sd2", "sd2")):
        pipeline = build_pipeline(family, tmp_path / family)
        pipeline.load_lora_weights(str(host.file(name)))
        with safe_open(host.file(name), "pt") as file:
            layers = sum(key.endswith(".alpha") for key in file.keys())  # noqa: SIM118
        assert sum("lora_A" in key for key, _ in pipeline.unet.named_parameters()) == layers


class Ui:
    """The host's own database with one job, as its web UI keeps it: its buttons write into it."""

    ID = "7"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._do("create table Job (id, status, info, step, speed_string, stop, save_now, sample_now, return_to_queue)")
        self._do(f"insert into Job values ('{self.ID}', '', '', '0', '', 0, 0, 0, 0)")

    def press(self, button: str) -> None:
        self._do(f"update Job set {button} = 1")

    def shows(self, column: str) -> str:
        return str(self._do(f"select {column} from Job")[0][0])

    def _do(self, statement: str) -> list[Any]:
        with sqlite3.connect(self.path, timeout=30) as connection:
            return connection.execute(statement).fetchall()


def wait_for(running: subprocess.Popen[str], found: Callable[[], object]) -> None:
    """Until it is there, or the host has ended."""
    while running.poll() is None and not found():
        time.sleep(0.1)


def test_the_uis_buttons_save_draw_and_stop(host: Host) -> None:
    """Save now, sample now, and stop between two pictures: nothing that was learned is lost, and the job goes on."""
    ui, saved = Ui(host.folder / "aitk.db"), host.folder / "out" / "pressed"
    model = {"name_or_path": str(z_image_folder(host.folder / "pressed_model")), "arch": "zimage"}
    more, samples = {"sqlite_db_path": str(ui.path)}, {**SAMPLE, "samples": 40 * SAMPLE["samples"]}
    sections: dict[str, Any] = {"save": {"save_every": 100_000}, "sample": samples, "more": more}
    job = host.job("pressed", model, train={"steps": 100_000}, **sections)
    running = host.start(job, AITK_JOB_ID=Ui.ID)
    wait_for(running, lambda: int(ui.shows("step")) > 0)
    ui.press("save_now")
    wait_for(running, lambda: list(saved.glob("*_0*.safetensors")))
    at_save = int(ui.shows("step"))
    # something that only the stop can save
    wait_for(running, lambda: int(ui.shows("step")) > at_save)
    ui.press("sample_now")
    wait_for(running, lambda: list(saved.glob("samples/*.jpg")))
    ui.press("stop")
    text = running.communicate()[0]
    assert "Job stopped" in text, text
    assert [ui.shows(column) for column in ("status", "save_now", "sample_now")] == ["stopped", "0", "0"]
    files = sorted(saved.glob("*.safetensors"))
    assert len(files) == 2
    history = read_history(history_path(saved, "pressed"))
    newest = history.of(StepDone)[-1].step
    assert host.metadata(files[-1])["ss_steps"] == str(newest) == ui.shows("step")
    text = host.run(host.job("pressed", model, train={"steps": newest + 2}, save=sections["save"]))
    assert f"Found step {newest} in metadata" in text
    assert "anew" not in text
    assert host.metadata(host.file("pressed"))["ss_steps"] == str(newest + 2)


def test_a_job_that_is_interrupted_goes_on_as_if_it_had_never_stopped(host: Host) -> None:
    """Ctrl-C after the save at step 2: that step is saved, and the resumed job ends with the same LoRA."""
    train = {"steps": 6}
    assert "finished 6 steps" in host.run(host.job("whole", {"name_or_path": str(TINY)}, train=train))
    job = host.job("broken_off", {"name_or_path": str(TINY)}, train=train)
    running = host.start(job)
    assert running.stdout
    for line in running.stdout:
        if "Saving at step 2" in line:
            running.send_signal(signal.SIGINT)
        if "stopped after" in line:
            break
    running.communicate()
    text = host.run(job)
    assert re.search(r"Found step [34] in metadata", text)
    assert "anew" not in text
    whole, resumed = (load_file(host.file(name)) for name in ("whole", "broken_off"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    history = read_history(history_path(host.file("broken_off").parent, "broken_off"))
    assert [event.step for event in history.of(StepDone)] == [1, 2, 3, 4, 5, 6]


def test_a_job_leaves_a_history_and_a_page_with_the_hosts_pictures(host: Host, output: str) -> None:
    """Which `leco report` reads, and the UI shows as a tab; a picture for each sample and time that the host drew."""
    folder = host.file("zimage").parent
    history = read_history(history_path(folder, "zimage"))
    assert [event.step for event in history.of(StepDone)] == [1, 2, 3]
    assert [event.step for event in history.of(PicturesDrawn)] == [0, 3]
    assert history.run.host == "ai-toolkit"
    assert history.of(RunEnded)[0].path == host.file("zimage")
    page = (folder / "plugin.html").read_text("utf-8")
    assert "3 steps, as many as were asked for" in page
    assert "data:image/" in page
