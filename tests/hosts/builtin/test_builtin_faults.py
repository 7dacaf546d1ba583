"""What goes wrong around a run: others of its name, files that cannot be written, signals, damaged states."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Recorder, tiny_job
from safetensors.torch import load_file

import leco_plugin
from leco_plugin.config.run import RunDescription
from leco_plugin.config.schema import JobConfig
from leco_plugin.engine.state_file import MANIFEST, DamagedState, Stored, read_label, read_state, write_state
from leco_plugin.errors import ConfigError, NetworkError, PluginError, TrainingError
from leco_plugin.events import RunStarted, Saved, StepDone, Warned
from leco_plugin.hosts.builtin.folder import Folder
from leco_plugin.plugins import plugin_manager, run_job

PAIR = {"target": "red", "positive": "red", "resolution": (64, 64)}
STATES = {"dtype": "float32", "save_state": True, "save_every": 2, "max_step_saves_to_keep": None}


class Watching(Recorder):
    """A plugin that observes, and does something at an event."""

    def __init__(self, at: Callable[[Any], bool] = lambda event: False, do: Callable[[], Any] = lambda: None) -> None:
        super().__init__()
        self.at, self.do = at, do

    def notify(self, event: Any) -> None:
        super().notify(event)
        if self.at(event):
            self.do()

    @leco_plugin.hookimpl
    def leco_observers(self, run: RunDescription) -> list[Recorder]:
        return [self]

    @property
    def warnings(self) -> str:
        return "\n".join(event.message for event in self.of(Warned))

    @property
    def run_id(self) -> str:
        return self.of(RunStarted)[0].run_id


def run(job: JobConfig, watching: Watching | None = None, *plugins: object) -> tuple[Any, Watching]:
    watching = watching or Watching()
    return run_job(job, manager=plugin_manager([watching, *plugins], installed=False)), watching


def after(step: int, do: Callable[[], Any]) -> Watching:
    return Watching(lambda event: isinstance(event, StepDone) and event.step == step, do)


def stopping(step: int, number: int = signal.SIGTERM) -> Watching:
    return after(step, lambda: os.kill(os.getpid(), number))


def job(folder: Path, **changes: Any) -> JobConfig:
    changes["train"] = {"steps": 6, **changes.get("train", {})}
    return tiny_job(folder, **{"save": STATES, **changes})


def names(folder: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern) if not path.name.endswith((".lock", ".run.jsonl")))


# --- runs of one name --------------------------------------------------------------------------------------------


def test_the_newest_state_is_that_of_the_newest_run(tmp_path):
    """However many steps an older one has done; it is the run that is gone on with, to the same bytes."""
    run(job(tmp_path, training_seed=None, train={"steps": 8}))
    again = {"training_seed": None, "save": {**STATES, "overwrite": True}}
    _, second = run(job(tmp_path, **again), stopping(3))
    outcome, resumed = run(job(tmp_path, training_seed=None, resume="newest"))
    assert resumed.of(RunStarted)[0].done == 3
    assert resumed.run_id == second.run_id
    seed = int(dict(second.of(RunStarted)[0].facts)["seed"])
    whole, _ = run(job(tmp_path / "whole", training_seed=seed))
    assert outcome.path.read_bytes() == whole.path.read_bytes()


def test_a_newest_run_without_a_state_starts_at_its_beginning(tmp_path):
    """It does not take up what an older one of the same name has left, with a warning that says so."""
    run(job(tmp_path))
    overwriting = job(tmp_path, save={"dtype": "float32", "overwrite": True})
    with pytest.raises(PluginError, match="failed in the run: RuntimeError: pulled out"):
        run(overwriting, None, Unplugged(after=1))
    again = overwriting.model_copy(update={"resume": "newest"})
    outcome, resumed = run(again)
    assert resumed.of(RunStarted)[0].done == 0
    assert "there is no state of the newest run" in resumed.warnings
    assert outcome.path.read_bytes() == run(job(tmp_path / "whole"))[0].path.read_bytes()


class Unplugged:
    """A plugin whose model breaks after some steps, as its predictions show."""

    def __init__(self, after: int, error: Callable[[], BaseException] = lambda: RuntimeError("pulled out")) -> None:
        self.left, self.error = after, error

    @leco_plugin.hookimpl
    def leco_load_model(self, job: JobConfig, device: torch.device) -> Any:
        from leco_plugin.families.load import load_model

        denoiser = load_model("builtin:tiny", dtype="fp32", device=device)
        predict, trained = denoiser.predict, [0]

        def unplugged(*arguments: Any) -> Any:
            trained[0] += torch.is_grad_enabled()
            if trained[0] > self.left:
                raise self.error()
            return predict(*arguments)

        denoiser.predict = unplugged
        return denoiser


def test_a_run_over_the_files_of_another_is_refused_with_the_ways_out(tmp_path):
    """Before anything is loaded, with nothing changed; resume is a way only where there is a state."""
    outcome, _ = run(job(tmp_path, save={"dtype": "float32"}))
    before = {path.name: path.read_bytes() for path in outcome.path.parent.iterdir()}
    with pytest.raises(ConfigError, match=r"holds tiny.safetensors of an earlier run") as caught:
        run(job(tmp_path, model={"name_or_path": "there is no such model"}))
    fix = caught.value.problems[0].fix
    assert "another name" in fix
    assert "save.overwrite: true" in fix
    assert "resume" not in fix
    assert {path.name: path.read_bytes() for path in outcome.path.parent.iterdir()} == before
    run(job(tmp_path, name="other"))
    with pytest.raises(ConfigError) as caught:
        run(job(tmp_path, name="other"))
    assert "resume: newest" in caught.value.problems[0].fix


def test_another_run_is_replaced_where_the_job_says_so(tmp_path):
    """It is said, too: which files may go."""
    run(job(tmp_path))
    outcome, watching = run(job(tmp_path, training_seed=6, save={**STATES, "overwrite": True}))
    assert "files of an earlier run are replaced" in watching.warnings
    assert "tiny-state" in watching.warnings
    assert outcome.path.read_bytes() == run(job(tmp_path / "whole", training_seed=6))[0].path.read_bytes()


def test_an_older_state_is_not_gone_on_with_over_a_newer_run(tmp_path):
    """Named by its folder, its files would replace those of the run since."""
    run(job(tmp_path), stopping(3))
    shutil.move(tmp_path / "tiny" / "tiny-step00000003-state", tmp_path / "kept-step00000003-state")
    run(job(tmp_path, save={**STATES, "overwrite": True}))
    with pytest.raises(ConfigError, match="of an earlier run"):
        run(job(tmp_path, resume=str(tmp_path / "kept-step00000003-state")))


def test_names_that_begin_alike_are_two_names(tmp_path):
    """In one folder, each run finds its own states, and neither is in the other's way."""
    for name in ("a-step1", "a"):
        asked = job(tmp_path, name=name, output_dir=tmp_path / "loras")
        run(asked, stopping(3))
        _, resumed = run(asked.model_copy(update={"resume": "newest"}))
        assert resumed.of(RunStarted)[0].done == 3
    assert read_label(tmp_path / "loras" / "a-step1-state").name == "a-step1"


def test_two_runs_of_one_name_at_once_are_refused(tmp_path):
    """Also where the first has written nothing yet; when it has ended, its hold is gone."""
    with Folder(job(tmp_path)), pytest.raises(ConfigError, match=r"another run writes tiny in .* at this moment"):
        run(job(tmp_path))
    refused: list[bool] = []

    def second() -> None:
        with pytest.raises(ConfigError, match="another run writes tiny"):
            run(job(tmp_path))
        refused.append(True)

    run(job(tmp_path), after(1, second))
    assert refused == [True]
    with pytest.raises(PluginError):
        run(job(tmp_path, name="broken"), None, Unplugged(after=0))
    run(job(tmp_path, name="broken"))


def test_the_hold_of_a_killed_run_is_gone(tmp_path):
    """With its process, whatever ended it."""
    script = f"""
        import os, signal, sys
        sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parent)]!r}
        from pathlib import Path
        from test_builtin_faults import Folder, job
        folder = Folder(job(Path({str(tmp_path)!r})))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "tiny" / ".tiny.lock").exists()
    with Folder(job(tmp_path)):
        pass


def test_what_dead_runs_left_half_written_is_swept(tmp_path):
    """Of this name alone; a state that was being replaced comes back."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    swept = [".tiny.safetensors.a1b2c3d4", ".tiny-step00000003.pt.abcdefgh", ".tiny.run.jsonl.________"]
    swept_folders = [".tiny-state.a1b2c3d4", ".tiny-step00000003-state.a1b2c3d4.old", ".tiny.ckpt.a1b2c3d4"]
    left = [".tiny2.safetensors.a1b2c3d4", ".tiny.safetensors", ".tiny.notes.a1b2c3d4", "tiny.txt"]
    for name in (*swept, *left):
        (folder / name).write_text("")
    for name in (*swept_folders, "tiny-step00000003-state"):
        (folder / name).mkdir()
    (folder / ".tiny-state.a1b2c3d4.old").mkdir()
    (folder / "samples").mkdir()
    (folder / "samples" / ".tiny-step00000003-01.png.a1b2c3d4").write_text("")
    with Folder(job(tmp_path)):
        found = names(folder, "**/*")
    assert found == sorted([*left, "tiny-step00000003-state", "tiny-state", "samples"])


# --- files that cannot be written --------------------------------------------------------------------------------


def test_a_step_file_that_cannot_be_written_is_said_and_training_goes_on(tmp_path):
    """A folder has its name; the others are written, its state is, and the end is the same."""
    (tmp_path / "tiny" / "tiny-step00000002.safetensors").mkdir(parents=True)
    outcome, watching = run(job(tmp_path))
    assert "tiny-step00000002.safetensors could not be written, and the run goes on: " in watching.warnings
    assert [event.path.name for event in watching.of(Saved)] == [
        "tiny-step00000002-state",
        "tiny-step00000004.safetensors",
        "tiny-step00000004-state",
        "tiny-state",
        "tiny.safetensors",
    ]
    assert outcome.path.read_bytes() == run(job(tmp_path / "whole"))[0].path.read_bytes()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_lora_that_its_folder_does_not_take_at_the_end_is_saved_elsewhere(tmp_path, home):
    """And it is said where; the state is there already. The run counts as failed."""
    (tmp_path / "tiny" / "tiny.safetensors").mkdir(parents=True)
    watching = Watching()
    with pytest.raises(TrainingError, match="could not be written") as caught:
        run(job(tmp_path), watching)
    (rescued,) = (home / "leco_rescued").iterdir()
    assert str(rescued) in str(caught.value)
    assert rescued.read_bytes() == run(job(tmp_path / "whole"))[0].path.read_bytes()
    assert [event.path.name for event in watching.of(Saved)][-2:] == ["tiny-state", rescued.name]


def test_on_a_full_disk_everything_is_saved_elsewhere(tmp_path, home):
    """No file may grow beyond a limit there: neither state nor LoRA are lost, and training came to its end."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    watching = Watching(lambda event: isinstance(event, StepDone) and event.step == 1, fill)
    watching_free = Watching(
        lambda event: isinstance(event, Warned) and "tiny-step00000004-state" in event.message,
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
    )
    try:
        outcome, _ = run(job(tmp_path), watching, watching_free)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in watching.warnings
    assert names(outcome.path.parent) == ["tiny-state", "tiny.safetensors"]


def test_where_no_folder_takes_the_lora_the_reason_is_said(tmp_path, home, monkeypatch):
    """Weights that are no numbers are no LoRA anywhere; the advice is not about disks. The state is there."""

    def refuse(*_: Any) -> None:
        raise NetworkError("up.weight is not finite in torch.float32", fix="train with a lower lr")

    monkeypatch.setattr("leco_plugin.network.peft_lora.PeftLora.save", refuse)
    with pytest.raises(TrainingError, match=r"nor anywhere else: up.weight is not finite") as caught:
        run(job(tmp_path, train={"steps": 1}))
    assert caught.value.problems[0].fix == "train with a lower lr"
    assert names(tmp_path / "tiny") == ["tiny-state"]


# --- runs that break off -----------------------------------------------------------------------------------------


def test_what_a_broken_run_saves_costs_no_other_file(tmp_path):
    """It is no step file: the only one that is kept stays."""
    save = {"dtype": "float32", "save_every": 2, "max_step_saves_to_keep": 1}
    with pytest.raises(PluginError, match="failed in the run: RuntimeError: pulled out"):
        run(job(tmp_path, save=save), watching := Watching(), Unplugged(after=3))
    assert names(tmp_path / "tiny") == ["tiny-step00000002.safetensors", "tiny-step00000003-emergency.safetensors"]
    assert "breaks off in step 4; the LoRA after 3 steps is saved in" in watching.warnings


@pytest.mark.parametrize(
    ("at", "every", "says"),
    [(0, 2, "no step was taken before it"), (2, 2, "the LoRA after 2 steps is kept in"), (3, 2, "is saved in")],
)
def test_memory_that_is_short_is_one_sentence_with_what_to_set(tmp_path, at, every, says):
    """What was learnt is there, and the sentence says where; or that there is nothing."""
    broken = Unplugged(at, lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    with pytest.raises(TrainingError, match=f"out of memory in step {at + 1}; .*{says}") as caught:
        run(job(tmp_path, save={"save_every": every}), None, broken)
    assert "gradient_checkpointing" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("changes", "says", "advice"),
    [
        ({"train": {"lr": 1e30}}, r"at step 2; the LoRA after 1 steps is saved in .*emergency", "a lower lr"),
        ({"train": {"lr": 1e39}}, r"too large for their precision at step 1; no step was taken", "a lower lr"),
        ({"train": {"lr": 1e30, "optimizer": "sgd"}, "network": {"dtype": "fp16"}}, r"no step was taken", "a lower lr"),
        ({"pairs": [{**PAIR, "guidance_scale": 1e38}]}, r"at step 1; no step was taken", "guidance_scale"),
    ],
)
def test_numbers_that_are_not_finite_end_a_run_with_what_is_so(tmp_path, changes, says, advice):
    """No file is spoken of that is not there, and before the first step the rate is not blamed."""
    with pytest.raises(TrainingError, match=says) as caught:
        run(job(tmp_path, **changes))
    fix = caught.value.problems[0].fix
    assert advice in fix
    assert ("lr" in fix) is ("lr" in str(changes))
    files = names(tmp_path / "tiny", "*.safetensors")
    assert files == (["tiny-step00000001-emergency.safetensors"] if "emergency" in says else [])


# --- signals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_what_was_learnt(tmp_path, name):
    """A closed terminal like the others; twice the same, as a terminal and its shell send it, changes nothing."""
    number = getattr(signal, name)
    times = 1 if number == signal.SIGINT else 2
    # nohup may have started these tests
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        outcome, _ = run(job(tmp_path), after(3, lambda: [os.kill(os.getpid(), number) for _ in range(times)]))
    finally:
        signal.signal(number, before)
    assert outcome.interrupted
    assert outcome.path.name == "tiny-step00000003.safetensors"
    assert (tmp_path / "tiny" / "tiny-step00000003-state").is_dir()


def test_a_run_that_is_stopped_before_its_first_step_leaves_nothing(tmp_path):
    """No LoRA that has learnt nothing, which would be in the way of the next run."""
    at_start = Watching(lambda event: isinstance(event, RunStarted), lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        run(job(tmp_path), at_start)
    assert names(tmp_path / "tiny") == []


def test_nohup_is_meant(tmp_path):
    """Where SIGHUP is ignored, a closed terminal stops nothing."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        outcome, _ = run(job(tmp_path), stopping(3, signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not outcome.interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_end_is_written_loses_nothing(tmp_path, number):
    """Between the state and the LoRA: both are there, and the run has come to its end."""
    watching = Watching(
        lambda event: isinstance(event, Saved) and event.path.name == "tiny-state",
        lambda: os.kill(os.getpid(), number),
    )
    outcome, _ = run(job(tmp_path), watching)
    assert not outcome.interrupted
    assert outcome.path.read_bytes() == run(job(tmp_path / "whole"))[0].path.read_bytes()


# --- states ------------------------------------------------------------------------------------------------------


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Change the manifest."""

    def edit(state: Path) -> None:
        manifest = json.loads((state / MANIFEST).read_text())
        change(manifest)
        (state / MANIFEST).write_text(json.dumps(manifest))

    return edit


def rewritten(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Change the tree, with checksums that fit."""

    def rewrite(state: Path) -> None:
        stored = read_state(state)
        change(stored.tree)
        write_state(state, Stored(stored.label, stored.described, stored.tree))

    return rewrite


DAMAGES: dict[str, Callable[[Path], None]] = {
    "another step": edited(lambda manifest: manifest.update(step=6)),
    "no step": edited(lambda manifest: manifest.pop("step")),
    "a list": lambda state: (state / MANIFEST).write_text("[]"),
    "1e999": lambda state: (state / MANIFEST).write_text('{"format": 2, "step": 1e999, "seal": ""}'),
    "deep": lambda state: (state / MANIFEST).write_text("[" * 100_000),
    "not text": lambda state: (state / MANIFEST).write_bytes(b"\xff\xfe"),
    "no sums": edited(lambda manifest: manifest.pop("sha256")),
    "a folder": lambda state: ((state / "state.json").unlink(), (state / "state.json").mkdir()),
    "empty": lambda state: [path.unlink() for path in state.iterdir()],
    "no weights": rewritten(lambda tree: tree["loop"].pop("weights")),
    "no generator": rewritten(lambda tree: tree["loop"].pop("random")),
    "no meter": rewritten(lambda tree: tree["loop"].update(meter=3)),
    "no optimizer": rewritten(lambda tree: tree["loop"].update(optimizer={})),
    "no files": rewritten(lambda tree: tree.pop("files")),
    "another shape": rewritten(lambda tree: tree["loop"]["weights"].pop()),
    "another done": rewritten(lambda tree: tree["loop"].update(done=6)),
    "steps as text": rewritten(lambda tree: tree["loop"].update(done="many")),
}


def nameless(state: Path) -> None:
    """A state whose checksums fit and that does not say which run it is of."""
    stored = read_state(state)
    write_state(state, Stored(stored.label, {}, stored.tree))


DAMAGES["no run"] = nameless


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The folder of a run with states at 2, 4 and 5, and what it would have come to."""
    folder = tmp_path_factory.mktemp("stopped")
    whole, _ = run(job(folder / "whole"))
    run(job(folder / "runs"), stopping(5))
    return folder / "runs", whole.path.read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_said_and_the_one_before_it_used(stopped, tmp_path, damage):
    """Whatever is wrong with it, and whichever way it is asked for; the end is the same."""
    source, expected = stopped
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    state = tmp_path / "tiny" / "tiny-step00000005-state"
    DAMAGES[damage](state)
    outcome, watching = run(job(tmp_path, resume="newest"))
    assert watching.of(StepDone)[0].step == 5
    assert "is left out" in watching.of(Warned)[0].message
    assert outcome.path.read_bytes() == expected


@pytest.mark.parametrize("change", [{"step": 4}, {"name": "other"}, {"run": "other"}, {"sha256": {}}])
def test_what_a_state_says_of_itself_has_a_checksum(stopped, tmp_path, change):
    """Else a changed bit would make it the newest, or another run's."""
    shutil.copytree(stopped[0], tmp_path, dirs_exist_ok=True)
    state = tmp_path / "tiny" / "tiny-step00000005-state"
    assert read_label(state).step == 5
    edited(lambda manifest: manifest.update(change))(state)
    with pytest.raises(DamagedState, match=r"manifest\.json is not what was written"):
        read_label(state)


def test_where_no_state_is_left_the_run_is_refused(stopped, tmp_path):
    """Rather than trained on with half of one."""
    shutil.copytree(stopped[0], tmp_path, dirs_exist_ok=True)
    for state in (tmp_path / "tiny").glob("*-state"):
        DAMAGES["no weights"](state)
    with pytest.raises(ConfigError, match="no state is left that fits"):
        run(job(tmp_path, resume="newest"))


def test_only_what_learnt_is_in_the_lora(tmp_path):
    """Which run wrote it is told by states and history alone: the same seed gives the same file."""
    first, second = (run(job(tmp_path / name)) for name in ("one", "two"))
    assert first[1].run_id != second[1].run_id
    assert first[0].path.read_bytes() == second[0].path.read_bytes()
    history = (first[0].path.parent / "tiny.run.jsonl").read_text().splitlines()
    assert json.loads(history[0])["run_id"] == first[1].run_id
    assert read_label(first[0].path.parent / "tiny-state").run == first[1].run_id
    assert load_file(first[0].path)
