"""One run in several processes: the same weights as one with all their walks, one end for all, one that speaks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CPU, seeded
from safetensors.torch import load_file
from torch import Tensor

import leco_plugin
from leco_plugin.commands import main as cli
from leco_plugin.config.build import load_job
from leco_plugin.config.schema import JobConfig, NetworkConfig
from leco_plugin.contracts import Denoiser
from leco_plugin.engine.assemble import assemble
from leco_plugin.engine.step import StepSettings
from leco_plugin.errors import ConfigError, LecoError, TrainingError
from leco_plugin.families.load import load_model
from leco_plugin.hosts.builtin.parallel import Alone, join
from leco_plugin.launched import place
from leco_plugin.network.create import create_network
from leco_plugin.observers.history import read_history
from leco_plugin.plugins import plugin_manager, run_job

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copies of this one")
ROOT = Path(__file__).parents[3]
JOB = """\
job: extension
config:
  name: several
  process:
    - type: leco
      training_folder: {folder}
      device: cpu
      training_seed: 3
      model: {{name_or_path: builtin:tiny}}
      network: {{linear: 2, linear_alpha: 2}}
      train: {{steps: 3, lr: 1e-3, max_grad_norm: 0}}
      save: {{dtype: float32, save_state: true, save_every: 2}}
      leco:
        max_denoising_steps: 4
        pool_size: 2
        pairs_per_step: 1
        prompts:
          - {{target: red, positive: red, resolution: 64, guidance_scale: 1}}
          - {{target: star, positive: star, resolution: 64, guidance_scale: 1}}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(folder=(tmp_path / "out").as_posix()))
    return path


@dataclass
class Ended:
    """How a process ended, and what it wrote."""

    code: int
    out: str
    err: str


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {**{name: str(value) for name, value in names.items()}, "MASTER_ADDR": "127.0.0.1"}


def start(count: int, work: Callable[[int], int], folder: Path) -> Callable[[], list[Ended]]:
    """Copy this process so many times, as a launcher would start them; gives what waits for their ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    outputs = [(folder / f"{rank}.out", folder / f"{rank}.err") for rank in range(count)]
    started = []
    for rank, paths in enumerate(outputs):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for number, path in zip((1, 2), paths, strict=True):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
                os.environ.update(environment(rank, count, port))
                code = work(rank)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        started.append(child)

    def wait() -> list[Ended]:
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in started]
        return [Ended(code, out.read_text(), err.read_text()) for code, (out, err) in zip(codes, outputs, strict=True)]

    wait.pids = started  # type: ignore[attr-defined]
    return wait


def train(count: int, path: Path, *arguments: str) -> list[Ended]:
    return start(count, lambda rank: cli.main(["train", str(path), *arguments]), path.parent / "outputs")()


class Watched:
    """A plugin that does something in a process before its ``step``-th call of the model with a gradient."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act, self.calls = step, act, 0

    @leco_plugin.hookimpl
    def leco_load_model(self, job: JobConfig, device: torch.device) -> Denoiser:
        self.denoiser = denoiser = load_model(job.model, dtype="fp32", device=device)
        predict = denoiser.predict

        def watched(*arguments: Any) -> Tensor:
            self.calls += torch.is_grad_enabled()
            if self.calls == self.step and torch.is_grad_enabled():
                self.act()
            return predict(*arguments)

        denoiser.predict = watched  # type: ignore[method-assign]
        return denoiser


def watched_run(path: Path, watched: Watched, **changes: object) -> int:
    """Run a job as the command does, with a plugin more."""
    asked = load_job(path, changes).job
    return cli._guarded(lambda: 130 if run_job(asked, manager=plugin_manager([watched])).interrupted else 0)


def together(path: Path, count: int) -> list[Tensor]:
    """Weights after the job's steps where one process has the walks of ``count``; by the step alone."""
    asked = load_job(path).job
    denoiser = load_model(asked.model, dtype="fp32", device=CPU)
    network = create_network(NetworkConfig(linear=2, linear_alpha=2), denoiser.module, seed=3)
    parts = [
        assemble(
            asked.pairs, asked.leco, StepSettings(), denoiser=denoiser, network=network, sampler="ddim",
            generator=seeded(3 if rank == 0 else of_rank(rank)),
        )
        for rank in range(count)
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, foreach=False)
    for _ in range(asked.train.steps):
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            part.step.run(part.walks, lambda loss: torch.autograd.backward(loss / count))
        optimizer.step()
    return [parameter.detach() for parameter in network.parameters()]


def of_rank(rank: int) -> int:
    """The seed of another process's walks, worked out once more."""
    from hashlib import sha256

    return int(sha256(f"walks of process {rank} at seed 3".encode()).hexdigest()[:16], 16) >> 1


@pytest.mark.parametrize("count", [2, 3])
def test_a_step_of_several_is_a_step_of_one_with_all_their_walks(job, tmp_path, count):
    """After three steps, to 1e-6; one has written, and one has printed."""
    ended = train(count, job)
    assert [one.code for one in ended] == [0] * count, ended
    assert [(one.out, one.err) for one in ended[1:]] == [("", "")] * (count - 1)
    folder = tmp_path / "out" / "several"
    state = load_file(folder / "several-state" / "tensors.safetensors")
    weights = together(job, count)
    for number, weight in enumerate(weights):
        torch.testing.assert_close(state[str(number)], weight, atol=1e-6, rtol=0)
    history = read_history(folder / "several.run.jsonl")
    steps = history.of(leco_plugin.events.StepDone)
    assert [(step.step, step.samples) for step in steps] == [(1, count), (2, count), (3, count)]
    assert f"processes: {count}, each with walks of its own" in ended[0].out
    assert f"step 3/3  loss {steps[-1].loss:.5f}" in ended[0].out


def test_a_stop_signal_to_any_stops_all_and_they_go_on_bit_for_bit(job, tmp_path):
    """SIGTERM to the second in step 2; as many go on, and another number is refused."""
    (tmp_path / "whole").mkdir()
    whole = tmp_path / "whole" / "job.yaml"
    whole.write_text(JOB.format(folder=(tmp_path / "whole").as_posix()))
    assert [one.code for one in train(2, whole)] == [0, 0]

    def act(rank: int) -> Callable[[], None]:
        return lambda: os.kill(os.getpid(), signal.SIGTERM) if rank == 1 else None

    ended = start(2, lambda rank: watched_run(job, Watched(2, act(rank))), tmp_path / "stopped")()
    assert [one.code for one in ended] == [130, 130], ended
    assert "stopped after 2 steps" in ended[0].out
    folder = tmp_path / "out" / "several"
    assert not (folder / "several.safetensors").exists()
    for count in (1, 3):
        refused = train(count, job, "--set", "resume=newest")
        assert [one.code for one in refused] == [2] * count
        assert f"step 2 is of a run in 2 processes, and this is one in {count}" in refused[0].err
        assert [one.err for one in refused[1:]] == [""] * (count - 1)
    resumed = train(2, job, "--set", "resume=newest")
    assert [one.code for one in resumed] == [0, 0], resumed
    assert "goes on: after step 2" in resumed[0].out
    written = "several/several.safetensors"
    assert (tmp_path / "out" / written).read_bytes() == (tmp_path / "whole" / written).read_bytes()


def test_the_flag_commands_train_in_several_processes_too(tmp_path):
    """With their notes said once."""
    (tmp_path / "prompts.toml").write_text('resolution = 64\n[[prompts]]\ntarget = "red"\n')
    given = {
        "pretrained_model_name_or_path": "builtin:tiny", "prompts_file": tmp_path / "prompts.toml",
        "output_dir": tmp_path / "out", "output_name": "flags", "max_train_steps": 1, "max_denoising_steps": 3,
        "seed": 1, "optimizer_type": "AdamW", "ddp_timeout": 5,
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in given.items()]
    ended = start(2, lambda rank: cli.train_from_flags(flags, sdxl=False), tmp_path / "outputs")()
    assert [one.code for one in ended] == [0, 0], ended
    assert (tmp_path / "out" / "flags.safetensors").is_file()
    assert [one.err.count("ddp_timeout") for one in ended] == [1, 0]
    assert ended[1].out == ""


def fail() -> None:
    raise TrainingError("the second one has had enough", fix="let it rest")


def vanish() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("act", "codes", "said"),
    [
        (fail, [2, 2, 2], "process 2 of 3: the second one has had enough\n  fix: let it rest"),
        (vanish, [2, -signal.SIGKILL, 2], "another of the 3 processes ended without a word"),
    ],
)
def test_an_error_in_one_ends_all_with_its_sentence(job, tmp_path, act, codes, said):
    """Said once, by the first; what was learnt in the step before is kept."""

    def work(rank: int) -> int:
        return watched_run(job, Watched(2, act if rank == 1 else lambda: None), **{"save.save_every": None})

    ended = start(3, work, tmp_path / "outputs")()
    assert [one.code for one in ended] == codes, ended
    assert said in ended[0].err
    assert "Traceback" not in ended[0].err
    assert [one.err for one in ended[1:]] == ["", ""]
    assert (tmp_path / "out" / "several" / "several-step00000001-emergency.safetensors").is_file()
    assert "the LoRA after 1 steps is saved in" in ended[0].out


def test_an_error_before_the_first_step_is_everybodys(job):
    """The folder is held by another run, which only the first process asks about; a wrong key all of them find."""
    folder = job.parent / "out" / "several"
    folder.mkdir(parents=True)
    (folder / "several.safetensors").write_text("of an earlier run")
    ended = train(2, job)
    assert [one.code for one in ended] == [2, 2], ended
    assert "several.safetensors of an earlier run" in ended[0].err
    assert ended[1].err == ""
    ended = train(2, job, "--set", "train.stebs=1")
    assert [one.code for one in ended] == [2, 2]
    assert [one.err.count("did you mean") for one in ended] == [1, 0]


def test_weights_that_are_no_longer_the_same_end_the_run(job, tmp_path):
    """As memory that has gone bad would make them; noticed where a file is due."""

    def work(rank: int) -> int:
        watched = Watched(2, lambda: spoil() if rank == 1 else None)

        def spoil() -> None:
            next(one for one in watched.denoiser.module.parameters() if one.requires_grad).data.add_(1e-3)

        return watched_run(job, watched)

    ended = start(2, work, tmp_path / "outputs")()
    assert [one.code for one in ended] == [2, 2], ended
    assert "the LoRA of process 2 of 2 is not that of the first" in ended[0].err


@pytest.mark.skipif(not os.environ.get("LECO_LAUNCH"), reason="slow; LECO_LAUNCH is not set")
def test_accelerate_launches_a_job_in_two_processes(job, tmp_path):
    """As a user does; a signal to the launcher stops all of them, and what there is is saved."""
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
    ]
    launch += [
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--main_process_port=0",
        "-m",
        "leco_plugin",
        "train",
    ]
    launched = subprocess.Popen(
        [*launch, str(job), "--set", "train.steps=5000"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder, deadline = tmp_path / "out" / "several", time.monotonic() + 600
    while not list(folder.glob("several-step*.safetensors")) and time.monotonic() < deadline and not launched.poll():
        time.sleep(0.2)
    launched.send_signal(signal.SIGTERM)
    out, err = launched.communicate()
    assert launched.returncode != 0, err
    assert out.count("stopped after") == 1, err
    (stopped,) = [line for line in out.splitlines() if line.startswith("stopped after")]
    assert Path(stopped.rsplit(" is in ", 1)[1]).is_file()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"WORLD_SIZE": "2"}, "accelerate launch --num_processes 2"),
        ({"WORLD_SIZE": "two"}, "the environment variable WORLD_SIZE is 'two'"),
        ({"ACCELERATE_USE_FSDP": "true"}, "accelerate is set to FSDP"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "accelerate is set to DeepSpeed"),
    ],
)
def test_what_a_launcher_asks_in_vain_is_refused(job, monkeypatch, capsys, given, says):
    """By name; the base model is not split."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["train", str(job)]) == 2
    assert says in capsys.readouterr().err


def test_processes_ask_the_model_unequally_often(job):
    """That is why it is not split: layers are gathered by all, in every call of any."""
    asked, calls = load_job(job).job, []
    for seed in (3, of_rank(1)):
        denoiser = load_model(asked.model, dtype="fp32", device=CPU)
        network = create_network(NetworkConfig(linear=2), denoiser.module, seed=3)
        predict, before = denoiser.predict, []

        def counted(*given: Any, predict: Any = predict, before: list[int] = before) -> Tensor:
            before.append(len(given[0]))
            return predict(*given)

        denoiser.predict = counted  # type: ignore[method-assign]
        part = assemble(
            asked.pairs, asked.leco, StepSettings(), denoiser=denoiser, network=network, sampler="ddim",
            generator=seeded(seed),
        )  # fmt: skip
        part.step.run(part.walks, torch.autograd.backward)
        calls.append(len(before))
    assert calls[0] != calls[1]


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_a_device_for_one_process_is_refused_to_several(monkeypatch, device):
    """Each has one of its own."""
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"device {device} is for one process, and there are 2"):
        join(device)


def test_one_process_where_several_were_asked_for_is_warned_of(job, monkeypatch, capsys):
    """accelerate starts one on a CPU, and says nothing of it."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert cli.main(["train", str(job), "--set", "train.steps=1"]) == 0
    assert "warning: accelerate was asked for several processes, and started one" in capsys.readouterr().err


def test_one_process_needs_no_accelerate(job, monkeypatch):
    """Nothing of ours asks for it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "accelerate"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert place().count == 1
    assert type(join("cpu")) is Alone
    with pytest.raises(LecoError, match="thrown"), join("cpu"):
        raise LecoError("thrown")
