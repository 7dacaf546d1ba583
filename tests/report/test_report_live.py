"""The report while a run goes on."""

from __future__ import annotations

from pathlib import Path

from models import tiny_job

from leco_plugin.config.run import describe_job
from leco_plugin.events import RunEnded, RunStarted, Saved, StepDone
from leco_plugin.plugins import plugin_manager


def test_a_host_that_shows_a_page_has_the_report_in_it_while_it_trains(tmp_path: Path) -> None:
    """From the start; a saved file and the end bring it up to date, and every step in between does not."""
    page = tmp_path / "tiny" / "plugin.html"
    page.parent.mkdir()
    run = describe_job(tiny_job(tmp_path)).model_copy(update={"page": page, "own_console": True})
    hook = plugin_manager(installed=False).hook
    observers = [one for some in hook.leco_observers(run=run) for one in some]

    def tell(event: object) -> str:
        for observer in observers:
            observer.notify(event)
        return page.read_text("utf-8")

    def step(number: int) -> StepDone:
        return StepDone(number, 9, 0.5, 1e-4, number / 9, samples=1, seconds=1.0, memory_bytes=5, drift=0.0)

    assert "0 of 9 steps; it still runs" in tell(RunStarted("tiny", 9, ()))
    assert "0 of 9 steps" in tell(step(3))
    assert "3 of 9 steps; it still runs" in tell(Saved(tmp_path / "tiny" / "tiny-step00000003.safetensors", 3, False))
    tell(step(9))
    done = tell(RunEnded(tmp_path / "tiny" / "tiny.safetensors", 9, 9.0, interrupted=False))
    assert "9 steps, as many as were asked for" in done
    assert "<svg" in done
    assert not [one for some in hook.leco_observers(run=describe_job(tiny_job(tmp_path))) for one in some
                if type(one).__name__ == "LivePage"]  # fmt: skip
