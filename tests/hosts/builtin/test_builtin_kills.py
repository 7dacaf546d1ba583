"""A run that is killed at any call to the file system, and resumed, gives the file that it would have given.

LECO_KILLS is the number of calls that are tried, spread evenly over all that a run makes; a few without it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from models import tiny_job

from leco_plugin.config.schema import JobConfig

KILLS = int(os.environ.get("LECO_KILLS") or 4)
_CALLS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def job(folder: Path, **changes: Any) -> JobConfig:
    """Four steps with a LoRA and a state after each, of which two are kept: files come, go and are replaced."""
    save = {"dtype": "float32", "save_state": True, "save_every": 1, "max_step_saves_to_keep": 2}
    return tiny_job(folder, train={"steps": 4}, save=save, **changes)


def watch_calls(folder: Path, told: Callable[[], None]) -> None:
    """Call ``told`` before everything that this process changes in ``folder`` from now on."""

    def hook(event: str, arguments: Sequence[Any]) -> None:
        opens = event == "open" and str(arguments[0]).startswith(str(folder)) and arguments[2] & _WRITES
        if opens or event in _CALLS:
            told()

    sync = os.fsync

    def fsync(handle: int) -> None:
        told()
        sync(handle)

    os.fsync = fsync
    sys.addaudithook(hook)


def in_child(do: Callable[[], object]) -> int:
    """What a process that is a copy of this one ends with: its exit code, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            do()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(asked: JobConfig, kill_at: int = 0, count: Path | None = None) -> None:
    """Train; be killed before call number ``kill_at``, or write into ``count`` how many there were."""
    from leco_plugin.plugins import plugin_manager, run_job

    calls = [0]

    def told() -> None:
        calls[0] += 1
        if calls[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    watch_calls(asked.output_folder, told)
    run_job(asked, manager=plugin_manager(installed=False))
    if count:
        count.write_text(str(calls[0]))


def campaign(folder: Path, kills: int) -> dict[str, Any]:
    """How many calls a run makes, where it was killed, and where that changed what it comes to in the end."""
    count = folder / "calls.txt"
    assert in_child(lambda: train(job(folder / "whole"), count=count)) == 0
    expected = (folder / "whole" / "tiny" / "tiny.safetensors").read_bytes()
    calls = int(count.read_text())
    tried = sorted({1 + number * (calls - 1) // max(1, kills - 1) for number in range(kills)})
    failed = {}
    for number in tried:
        here = folder / str(number)
        killed = in_child(lambda here=here, number=number: train(job(here), kill_at=number))
        resumed = in_child(lambda here=here: train(job(here, resume="newest")))
        files = {path.name for path in (here / "tiny").iterdir()} if (here / "tiny").exists() else set()
        same = "tiny.safetensors" in files and (here / "tiny" / "tiny.safetensors").read_bytes() == expected
        left = sorted(name for name in files if name.startswith(".") and name != ".tiny.lock")
        if (killed, resumed, same, left) != (-signal.SIGKILL, 0, True, []):
            failed[number] = [killed, resumed, same, left]
    return {"calls": calls, "tried": tried, "failed": failed}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills copies of one process")
def test_a_run_killed_at_any_call_gives_the_same_bytes_when_resumed(tmp_path):
    """And leaves nothing half-written behind."""
    script = f"""
import json, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}
from pathlib import Path
import torch
from leco_plugin.families.load import load_model
load_model("builtin:tiny", dtype="fp32", device=torch.device("cpu"))
from test_builtin_kills import campaign
print(json.dumps(campaign(Path({str(tmp_path)!r}), {KILLS})))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == {}
    assert len(found["tried"]) == min(KILLS, found["calls"]) > 1
    assert found["calls"] > 50
