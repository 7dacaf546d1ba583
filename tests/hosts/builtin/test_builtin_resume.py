"""States: a run that is stopped and resumed gives the file that it would have given; what does not fit is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Recorder, tiny_job
from torch import nn

import leco_plugin
from leco_plugin.config.run import RunDescription
from leco_plugin.config.schema import JobConfig
from leco_plugin.engine.same_run import describe_run, model_weights_hash, refuse_other_run
from leco_plugin.engine.state_file import DamagedState, Label, Stored, read_state, write_state
from leco_plugin.errors import ConfigError, LecoError, TrainingError
from leco_plugin.events import RunStarted, Saved, StepDone, Warned
from leco_plugin.plugins import plugin_manager, run_job

PAIRS = [
    {"target": name, "positive": name, "resolution": (64, 64), "batch_size": size}
    for name, size in (("red", 1), ("blue", 2), ("star", 1))
]
STEPS = 7


class Stopping(Recorder):
    """Observes, and sends the process SIGTERM after a step."""

    def __init__(self, after: int | None = None) -> None:
        super().__init__()
        self.after = after

    def notify(self, event: Any) -> None:
        super().notify(event)
        if isinstance(event, StepDone) and event.step == self.after:
            os.kill(os.getpid(), signal.SIGTERM)

    @leco_plugin.hookimpl
    def leco_observers(self, run: RunDescription) -> list[Recorder]:
        return [self]


def job(folder: Path, **changes: Any) -> JobConfig:
    sections: dict[str, Any] = {
        "train": {"steps": STEPS, "lr_scheduler": "cosine", "lr_warmup_steps": 2},
        "save": {"dtype": "float32", "save_state_on_train_end": True},
        "pairs": PAIRS,
    }
    for name, value in changes.items():
        merges = isinstance(value, dict) and isinstance(sections.get(name), dict)
        sections[name] = {**sections[name], **value} if merges else value
    return tiny_job(folder, **sections)


def run(asked: JobConfig, stop_after: int | None = None) -> tuple[Path, Stopping]:
    watching = Stopping(stop_after)
    outcome = run_job(asked, manager=plugin_manager([watching], installed=False))
    assert outcome.interrupted is (stop_after is not None)
    return outcome.path, watching


def in_two_parts(folder: Path, at: int, **changes: Any) -> tuple[bytes, Stopping]:
    """The final file of a run that is stopped after step ``at`` and resumed."""
    run(job(folder, **changes), at)
    path, watching = run(job(folder, resume="newest", **changes))
    return path.read_bytes(), watching


@pytest.mark.parametrize(("sampler", "at"), [("ddim", 1), ("euler_a", 3), ("dpmsolver++", 4), ("dpmsolver++", 6)])
@pytest.mark.parametrize("walk", ["fresh", "pool"])
def test_a_run_that_was_stopped_gives_the_same_file(tmp_path, walk, sampler, at):
    """Bit for bit, with samplers that have a history or draw noise, wherever it was stopped."""
    leco = {"walk": walk, "pairs_per_step": 2, "max_denoising_steps": 5}
    if walk == "pool":
        leco["pool_size"] = 3
    changes = {"leco": leco, "train": {"noise_scheduler": sampler}}
    whole, _ = run(job(tmp_path / "whole", **changes))
    torch.manual_seed(at)
    parts, watching = in_two_parts(tmp_path / "stopped", at, **changes)
    assert [event.step for event in watching.of(StepDone)] == list(range(at + 1, STEPS + 1))
    assert parts == whole.read_bytes()


@pytest.mark.parametrize(
    "train",
    [
        {"optimizer": "sgdnesterov", "optimizer_params": {"momentum": 0.5}, "gradient_accumulation": 2},
        {
            "optimizer": "adafactor",
            "optimizer_params": {"relative_step": True},
            "lr_scheduler": "constant",
            "lr_warmup_steps": 0,
        },
        {"optimizer": "lion", "lr_scheduler": "linear"},
        {"optimizer": "prodigy", "lr": 1.0},
        {"optimizer": "dadaptadam", "lr": 1.0},
        {"optimizer": "adamwschedulefree", "lr_scheduler": "constant", "lr_warmup_steps": 0},
        {"dtype": "bf16", "min_snr_gamma": 5.0},
        {"dtype": "fp16"},
    ],
    ids=lambda train: str(train.get("optimizer") or train["dtype"]),
)
def test_every_optimizer_goes_on_where_it_was(tmp_path, train):
    """Its moments, its step count, what it has found out about the rate, and the scale of fp16."""
    packages = {"lion": "lion_pytorch", "prodigy": "prodigyopt", "dadaptadam": "dadaptation"}
    packages["adamwschedulefree"] = "schedulefree"
    if train.get("optimizer") in packages:
        pytest.importorskip(packages[train["optimizer"]])
    whole, _ = run(job(tmp_path / "whole", train=train, save={"save_every": 2}))
    parts, _ = in_two_parts(tmp_path / "stopped", 3, train=train, save={"save_every": 2})
    assert parts == whole.read_bytes()


def test_dropout_draws_on_where_it_was(tmp_path):
    """From torch's own generator, which is the run's while it lasts and is left as it was found."""
    changes = {"network": {"dropout": 0.3}}
    torch.manual_seed(1)
    untouched = torch.rand(1)
    torch.manual_seed(1)
    whole, _ = run(job(tmp_path / "whole", **changes))
    assert torch.equal(torch.rand(1), untouched)
    parts, _ = in_two_parts(tmp_path / "stopped", 3, **changes)
    assert parts == whole.read_bytes()


def test_the_goal_and_the_rate_are_reported_as_if_nothing_had_happened(tmp_path):
    """What is shown after the stop is what an unbroken run shows."""
    _, whole = run(job(tmp_path / "whole"))
    _, resumed = in_two_parts(tmp_path / "stopped", 4)
    shown = [[(e.step, e.loss, e.learning_rate, e.goal_reached) for e in w.of(StepDone)] for w in (whole, resumed)]
    assert shown[1] == shown[0][4:]
    assert dict(resumed.of(RunStarted)[0].facts)["goes on"] == "after step 4"


def test_a_run_without_a_seed_keeps_the_one_that_it_drew(tmp_path):
    """The resumed run records it, and draws on from the same generators."""
    first = job(tmp_path, training_seed=None)
    _, watching = run(first, 3)
    seed = dict(watching.of(RunStarted)[0].facts)["seed"]
    path, resumed = run(first.model_copy(update={"resume": "newest"}))
    assert dict(resumed.of(RunStarted)[0].facts)["seed"] == seed
    whole, _ = run(job(tmp_path / "whole", training_seed=int(seed)))
    assert path.read_bytes() == whole.read_bytes()


def test_states_are_written_with_the_files_and_cleared_away_like_them(tmp_path):
    """With every file and at the end; by age where the job says so."""
    save = {"save_state": True, "save_every": 2, "save_last_n_steps_state": 2}
    path, watching = run(job(tmp_path, save=save))
    names = sorted(file.name for file in path.parent.iterdir() if file.is_dir())
    assert names == ["tiny-state", "tiny-step00000004-state", "tiny-step00000006-state"]
    assert [e.step for e in watching.of(Saved) if e.path.name.endswith("state")] == [2, 4, 6, 7]
    assert sorted(p.name for p in (path.parent / "tiny-state").iterdir()) == [
        "manifest.json",
        "state.json",
        "tensors.safetensors",
    ]


def test_a_resumed_run_clears_away_what_it_wrote_before(tmp_path):
    """And nothing that is only named alike."""
    save = {"save_every": 1, "max_step_saves_to_keep": 2}
    run(job(tmp_path, save=save), 3)
    other = tmp_path / "tiny" / "tiny-step00000001.safetensors"
    other.write_text("another run's")
    path, _ = run(job(tmp_path, save=save, resume="newest"))
    names = sorted(file.name for file in path.parent.glob("*.safetensors"))
    assert names == [other.name, "tiny-step00000005.safetensors", "tiny-step00000006.safetensors", "tiny.safetensors"]


def test_training_can_be_made_longer(tmp_path):
    """From the final state: 7 steps and 2 more are 9 in one run."""
    options = {"lr_scheduler": "constant"}
    run(job(tmp_path / "parts", train=options))
    path, _ = run(
        job(tmp_path / "parts", train={**options, "steps": 9}, resume=str(tmp_path / "parts/tiny/tiny-state"))
    )
    whole, _ = run(job(tmp_path / "whole", train={**options, "steps": 9}))
    assert path.read_bytes() == whole.read_bytes()
    with pytest.raises(ConfigError, match="the state is at step 9, and the run has 8 steps"):
        run(job(tmp_path / "parts", train={**options, "steps": 8}, resume="newest"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with states at 2, 4 and 5."""
    folder = tmp_path_factory.mktemp("stopped")
    run(job(folder, save={"save_state": True, "save_every": 2}), 5)
    return folder


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"network": {"linear": 2}}, "network.linear: 4 in the state, 2 now"),
        ({"pairs": PAIRS[:2]}, 'pair 3 target: "star" in the state, absent now'),
        (
            {"pairs": [{**PAIRS[0], "guidance_scale": 2.0}, *PAIRS[1:]]},
            "pair 1 guidance_scale: 1.0 in the state, 2.0 now",
        ),
        ({"train": {"lr": 1e-5}}, "train.lr: 0.001 in the state, 1e-05 now"),
        ({"train": {"optimizer": "sgd"}}, 'train.optimizer: "adamw" in the state, "sgd" now'),
        ({"leco": {"walk": "fresh"}}, 'leco.walk: "pool" in the state, "fresh" now'),
        ({"training_seed": 6}, "training_seed: 5 in the state, 6 now"),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else None,
)
def test_a_state_of_another_run_is_refused_with_what_differs(stopped, changes, difference):
    """Before the model is looked for."""
    model = {"name_or_path": "there is no such model"}
    with pytest.raises(ConfigError) as caught:
        run(job(stopped, resume="newest", model=model, **changes))
    assert f"the state at step 5 is of another run: {difference}" in caught.value.problems[0].message


def test_a_state_from_before_an_option_existed_has_its_default():
    """A new option must not end the runs of an older version; only another value than the default is a difference."""
    now = describe_run(job(Path()), 5)
    new = ("train.huber_c", "leco.preserve", "network.rank_dropout", "pair 1 weight")
    old = Stored(Label(3), {name: value for name, value in now.items() if name not in new}, {})
    refuse_other_run(old, now)
    with pytest.raises(ConfigError, match=r"pair 1 weight: 1.0 in the state, 0.5 now"):
        refuse_other_run(old, {**now, "pair 1 weight": "0.5"})
    without_target = Stored(Label(3), {name: value for name, value in now.items() if name != "pair 1 target"}, {})
    with pytest.raises(ConfigError, match="pair 1 target: absent in the state"):
        refuse_other_run(without_target, now)


def test_a_state_of_another_model_is_refused(stopped, tmp_path):
    """Told by its weights: a copy in another folder is the same model, one changed weight makes it another."""
    from diffusers import UNet2DConditionModel

    from leco_plugin.tiny import MODEL_FOLDER

    copy = tmp_path / "model"
    shutil.copytree(MODEL_FOLDER, copy)
    folder = tmp_path / "runs"
    shutil.copytree(stopped, folder)
    run(job(folder, resume="newest", model={"name_or_path": str(copy)}))
    unet = UNet2DConditionModel.from_pretrained(copy, subfolder="unet")
    next(iter(unet.parameters())).data += 0.5
    unet.save_pretrained(copy / "unet")
    with pytest.raises(ConfigError, match="weights of the model"):
        run(job(folder, resume=str(folder / "tiny/tiny-step00000004-state"), model={"name_or_path": str(copy)}))


def test_a_model_without_weights_has_a_hash_too():
    """Whatever plugins bring."""
    assert model_weights_hash(nn.Identity()) != model_weights_hash(nn.Linear(2, 2))


@pytest.mark.parametrize("damage", ["no manifest", "cut tensors", "no json", "changed"])
def test_a_state_that_was_cut_off_is_recognised_and_the_one_before_it_used(stopped, tmp_path, damage):
    """With a warning that names it; whether the newest was asked for or that very one."""
    for resume in ("newest", "tiny-step00000005-state"):
        folder = tmp_path / resume
        shutil.copytree(stopped, folder)
        state = folder / "tiny" / "tiny-step00000005-state"
        if damage == "no manifest":
            (state / "manifest.json").unlink()
        elif damage == "cut tensors":
            tensors = (state / "tensors.safetensors").read_bytes()
            (state / "tensors.safetensors").write_bytes(tensors[: len(tensors) // 2])
        elif damage == "no json":
            (state / "manifest.json").write_text("{")
        else:
            text = (state / "state.json").read_text()
            (state / "state.json").write_text(text.replace('"done", 5', '"done", 6'))
        asked = resume if resume == "newest" else str(state)
        save = {"save_state": True, "save_every": 2}
        path, watching = run(job(folder, resume=asked, save=save))
        assert watching.of(StepDone)[0].step == 5
        assert str(state) in watching.of(Warned)[0].message
        whole, _ = run(job(tmp_path / f"whole-{resume}", save=save))
        assert path.read_bytes() == whole.read_bytes()


def test_a_folder_that_holds_no_state_is_refused(stopped, tmp_path):
    """One that is not there, one that is something else, and one of which nothing is whole."""
    for name in ("nowhere-state", "output"):
        with pytest.raises(ConfigError, match="is no state that a run wrote"):
            run(job(stopped, resume=str(tmp_path / name)))
    (tmp_path / "x-state").mkdir()
    with pytest.raises(ConfigError, match="holds no state that is whole"):
        run(job(stopped, resume=str(tmp_path / "x-state")))


def test_the_newest_of_none_is_a_new_run(tmp_path):
    """With a warning: a job that is restarted by a scheduler can always say newest."""
    path, watching = run(job(tmp_path / "a", resume="newest"))
    assert "there is no state" in watching.of(Warned)[0].message
    assert path.read_bytes() == run(job(tmp_path / "b"))[0].read_bytes()


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_builtin_resume import job
from leco_plugin.plugins import plugin_manager, run_job
save = {{"save_state": True, "save_every": 1, "max_step_saves_to_keep": 2}}
run_job(job(Path({folder!r}), save=save, train={{"steps": 300}}), manager=plugin_manager(installed=False))
"""


def test_a_run_that_was_killed_goes_on_from_its_newest_state(tmp_path):
    """SIGKILL at any moment, and twice: nothing half-written is taken up, and the file is the same in the end."""
    folder = tmp_path / "killed"
    script = SCRIPT.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[2])], folder=str(folder))
    wanted = folder / "tiny" / "tiny-step00000004-state"
    with subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[3]) as process:
        while not wanted.exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    states = sorted((folder / "tiny").glob("tiny-step*-state"))
    last = int(states[-1].name[9:17])
    options = {"train": {"steps": 300}, "save": {"save_state": True, "save_every": 1}}
    run(job(folder, resume="newest", **options), last + 2)
    run(job(tmp_path / "whole", **options), last + 2)
    name = f"tiny/tiny-step{last + 2:08d}.safetensors"
    assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_state_is_read_back_as_it_was_written(tmp_path):
    """Numbers to the last bit, keys and containers of their kind, tensors of every type."""
    shared = torch.arange(6.0)
    tree = {
        "numbers": [0.1, 1e-300, -0.0, float("inf"), 2**70, True, None, "text"],
        3: (1, [2, (3,)], {}),
        "tensors": [shared[:2], shared[1:], torch.tensor(1.5, dtype=torch.bfloat16), torch.zeros(0, dtype=torch.uint8)],
    }
    write_state(tmp_path / "s", Stored(Label(3, "n", "r"), {"a": "b"}, tree))
    found = read_state(tmp_path / "s")
    assert (found.label, found.described) == (Label(3, "n", "r"), {"a": "b"})
    assert json.dumps(found.tree["numbers"]) == json.dumps(tree["numbers"])
    assert found.tree[3] == tree[3]
    for read, written in zip(found.tree["tensors"], tree["tensors"], strict=True):
        assert read.dtype == written.dtype
        assert torch.equal(read, written)


def test_what_a_state_cannot_keep_is_said_with_its_place(tmp_path):
    """Nothing is pickled, and nothing half-written is left."""
    with pytest.raises(TrainingError, match=r"state\.optimizer\[1\] is a object, which a state cannot keep"):
        write_state(tmp_path / "s", Stored(Label(1), {}, {"optimizer": [1, object()]}))
    assert list(tmp_path.iterdir()) == []


def test_a_state_replaces_one_of_the_same_name(tmp_path):
    """Whole."""
    for step in (1, 2):
        write_state(tmp_path / "s", Stored(Label(step), {}, [step]))
    assert read_state(tmp_path / "s").step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_state_that_cannot_be_written_stops_the_run(tmp_path):
    """A file stands where its folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot write the state"):
        write_state(tmp_path / "file" / "s", Stored(Label(1), {}, []))


def test_a_state_of_a_later_format_is_not_guessed_at(tmp_path):
    """Its number is named."""
    write_state(tmp_path / "s", Stored(Label(1), {}, []))
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 9'))
    with pytest.raises(DamagedState, match="format is 9"):
        read_state(tmp_path / "s")


def test_a_sampler_that_cannot_be_stored_is_said(tmp_path):
    """What a model plugin would have to add."""
    from models import LineSampler, seeded

    from leco_plugin.core.walk import Walk

    walk = Walk(0, torch.zeros(1, 4, 8, 8), torch.zeros(6), LineSampler(4), seeded(0))
    with pytest.raises(LecoError, match="LineSampler cannot be stored"):
        walk.state()
