"""How long jobs that share a model take to their first step, one after the other in one process, imports included.

    python benchmarks/second_job.py --model builtin:tiny

Prints seconds of the CPU, which other work on the machine adds little to, and of the clock.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter(), time.process_time()

import argparse  # noqa: E402 - what is imported from here on is part of what is measured
import tempfile  # noqa: E402

from leco_plugin.config.schema import JobConfig  # noqa: E402
from leco_plugin.events import Event, RunStarted  # noqa: E402
from leco_plugin.families.known import settle  # noqa: E402
from leco_plugin.hookspecs import hookimpl  # noqa: E402
from leco_plugin.hosts.builtin.shared_model import SharedModel  # noqa: E402
from leco_plugin.plugins import plugin_manager, run_job  # noqa: E402


class Watch:
    """Notes when a run is about to take its first step."""

    def __init__(self) -> None:
        self.clock = self.cpu = 0.0

    @hookimpl
    def leco_observers(self, run: object) -> list[Watch]:
        return [self]

    def notify(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.clock, self.cpu = time.perf_counter(), time.process_time()


def main() -> None:
    """Print a row for each of three jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin:tiny")
    model = parser.parse_args().model
    watch, (clock, cpu) = Watch(), BEGAN
    manager = plugin_manager([watch])
    manager.register(SharedModel(manager), "shared-model")
    for name in ("observers", "report"):
        manager.unregister(name=name)
    print("| job | CPU s to its first step | s |", "|---|---|---|", sep="\n")
    pairs = ({"target": "red", "positive": "red", "resolution": (64, 64)},)
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2, 3):
            job = {"name": f"job{number}", "training_folder": folder, "device": "cpu", "pairs": pairs}
            asked = {**job, "model": {"name_or_path": model}, "train": {"steps": 1}}
            run_job(settle(JobConfig.model_validate(asked, strict=False)).job, manager=manager)
            print(f"| {number} | {watch.cpu - cpu:.2f} | {watch.clock - clock:.2f} |")
            clock, cpu = time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
