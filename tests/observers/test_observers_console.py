"""What a run looks like: as plain lines, and on a terminal."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from leco_plugin.events import Event, PicturesDrawn, RunEnded, RunStarted, Saved, StepDone, Warned
from leco_plugin.observers.console import figures, many_view
from leco_plugin.observers.console.plain_view import PlainView
from leco_plugin.observers.console.rich_view import RichView
from leco_plugin.observers.console.view import console_view

STARTED = RunStarted("size [1]", 100, (("model", "builtin:tiny"), ("prompts", "'a [red] star', 'étoile'")))
ENDED = RunEnded(Path("out/size.safetensors"), 100, 83.4, interrupted=False)
MEASURED = replace(ENDED, goal_reached=0.5, effect=0.42, side_effect=0.3, drift=0.12, means="it moves pictures by 0.42")


def step(number: int, *, loss: float = 0.25, reached: float | None = 0.5) -> StepDone:
    figures = {"effect": reached and 0.8 * reached, "side_effect": -0.001, "drift": 0.12}
    return StepDone(number, 100, loss, 1e-4, reached, samples=2, seconds=0.5, memory_bytes=3 * 2**30, **figures)


def plain(*events: Event) -> list[str]:
    out = io.StringIO()
    view = PlainView(out)
    for event in events:
        view.notify(event)
    return out.getvalue().splitlines()


def test_the_facts_come_first_as_they_are():
    """A line for each."""
    assert plain(STARTED) == ["model: builtin:tiny", "prompts: 'a [red] star', 'étoile'"]


def test_a_step_is_one_line_with_all_figures():
    """Two samples in half a second are four a second; 99 steps of half a second are left."""
    assert plain(step(1)) == [
        "step 1/100  loss 0.25000  effect 0.40  side 0.00  drift 0.12  goal reached 50 %  "
        "lr 1.00e-04  4.0 samples/s  3.0 GiB  0:50 left"
    ]


def test_only_the_first_and_the_last_step_are_sure_of_a_line():
    """Those in between have to wait ten seconds for theirs."""
    lines = plain(*(step(number) for number in range(1, 101)))
    assert [line.split()[1] for line in lines] == ["1/100", "100/100"]


def test_a_step_after_ten_seconds_gets_a_line(monkeypatch):
    """By the clock, not by the number of steps."""
    now = iter([100.0, 105.0, 110.5, 111.0])
    monkeypatch.setattr("leco_plugin.observers.console.plain_view.time.monotonic", lambda: next(now))
    lines = plain(step(1), step(2), step(3), step(4))
    assert [line.split()[1] for line in lines] == ["1/100", "3/100"]


def test_warnings_files_and_the_end_are_lines_of_their_own():
    """Intermediate files say their step."""
    assert plain(
        Warned("mind the gap"),
        Saved(Path("a-step00000005.safetensors"), 5, final=False),
        Saved(Path("a.safetensors"), 100, final=True),
        ENDED,
        MEASURED,
    ) == [
        "warning: mind the gap",
        "saved a-step00000005.safetensors (step 5)",
        "saved a.safetensors",
        "finished 100 steps in 1:23; the LoRA is out/size.safetensors",
        "finished 100 steps in 1:23, effect 0.42: it moves pictures by 0.42; side effect 0.30, drift of other prompts "
        "0.12, goal reached 50 %; the LoRA is out/size.safetensors",
    ]


def test_a_stopped_run_says_where_its_work_is():
    """It is not lost."""
    (line,) = plain(RunEnded(Path("a-step00000007.safetensors"), 7, 3700, interrupted=True))
    assert line == "stopped after 7 steps in 1:01:40; what was learned so far is in a-step00000007.safetensors"


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"\xe9toile \u661f"), ("latin-1", r"étoile \u661f")])
def test_what_a_log_cannot_spell_is_escaped(encoding, shown):
    """Nothing raises, and nothing is lost."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    PlainView(out).notify(Warned("étoile 星"))
    assert raw.getvalue().decode(encoding).splitlines() == [f"warning: {shown}"]


def test_every_line_is_out_at_once():
    """A log that is read while the run goes on."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="utf-8", write_through=False)
    PlainView(out).notify(Warned("now"))
    assert raw.getvalue()


def rich(*events: Event, width: int = 200) -> str:
    """What stands on a terminal in the end, without the codes that move the cursor."""
    out = io.StringIO()
    view = RichView(Console(file=out, force_terminal=True, width=width, color_system=None))
    for event in events:
        view.notify(event)
    if view._progress.live.is_started:
        view._progress.stop()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


def test_a_table_shows_the_facts():
    """Brackets are letters here, not markup."""
    shown = rich(STARTED, step(1), ENDED)
    assert "LECO: size [1]" in shown
    assert re.search(r"model\s+│\s+builtin:tiny", shown)
    assert "'a [red] star', 'étoile'" in shown


def test_one_line_shows_all_figures():
    """Those of the last step."""
    shown = rich(STARTED, step(1, loss=0.75, reached=None), step(50), ENDED)
    last = [line for line in shown.splitlines() if "training" in line][-1]
    for figure in ("50/100", "loss 0.2500", "effect 0.40", "goal 50 %", "lr 1.0e-04", "samples/s", "3.0 GiB", "left"):
        assert figure in last


@pytest.mark.parametrize(("width", "least"), [(80, ("effect 0.40", "left")), (120, ("loss", "side", "goal 50 %"))])
def test_a_narrow_terminal_shows_less_and_all_of_it(width: int, least: tuple[str, ...]):
    """No figure is cut short, and the bar can be read."""
    shown = rich(STARTED, step(1), step(50), ENDED, width=width)
    last = [line for line in shown.splitlines() if "training" in line][-1]
    assert "…" not in last
    assert last.count("━") >= 10
    assert all(figure in last for figure in least)


def test_no_goal_is_a_dash():
    """Where nothing measures it."""
    assert "effect -" in rich(STARTED, step(1, reached=None), ENDED)


def test_warnings_files_and_the_end_are_printed_as_they_are():
    """Long paths stay in one piece, and brackets in them are letters."""
    path = Path("a" * 150) / "b[red].safetensors"
    shown = rich(
        STARTED, Warned("the [bold] prompt"), Saved(path, 100, final=True), RunEnded(path, 100, 5, False), width=80
    )
    assert "warning: the [bold] prompt" in shown
    assert f"saved {path}" in shown
    assert f"finished 100 steps in 0:05; the LoRA is\n{path}" in shown


def test_the_live_line_ends_with_the_run():
    """And the cursor is back."""
    out = io.StringIO()
    view = RichView(Console(file=out, force_terminal=True))
    view.notify(STARTED)
    assert view._progress.live.is_started
    view.notify(ENDED)
    assert not view._progress.live.is_started
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_the_cursor_is_back_after_a_run_that_failed():
    """No RunEnded comes then; the process ends, and the terminal is the user's again."""
    script = (
        "from rich.console import Console; from leco_plugin.observers.console.rich_view import RichView;"
        "from leco_plugin.events import RunStarted;"
        "RichView(Console(force_terminal=True)).notify(RunStarted('a', 3, ())); raise SystemExit(2)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.rindex("\x1b[?25h") > done.stdout.rindex("\x1b[?25l")


@pytest.mark.parametrize(("terminal", "expected"), [(True, RichView), (False, PlainView)])
def test_a_terminal_gets_the_live_view_and_a_pipe_plain_lines(monkeypatch, terminal, expected):
    """One view, by where the output goes."""

    class Out(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    monkeypatch.setenv("TERM", "xterm")
    assert type(console_view(Out())) is expected


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.9, "1:00:00"), (90061, "25:01:01")]
)
def test_durations(seconds, shown):
    """Minutes and seconds, and hours where there are any."""
    assert figures.duration(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 MiB"), (300 * 2**20, "300 MiB"), (2**30, "1.0 GiB"), (13 * 2**29, "6.5 GiB")]
)
def test_memory(number, shown):
    """GiB from one on."""
    assert figures.memory(number) == shown


@pytest.mark.parametrize(("fraction", "shown"), [(None, "-"), (0.0, "0 %"), (0.456, "46 %"), (-0.2, "-20 %")])
def test_a_fraction_is_a_percentage(fraction, shown):
    """Below zero where it is farther away than before."""
    assert figures.percentage(fraction) == shown


def test_the_pace_is_smoothed_and_counts_steps_between_events():
    """Ten steps an event, a second each: 0.1 s a step, and later seconds count more than earlier ones."""
    pace = figures.Pace()
    steady = [pace.add(StepDone(number, 100, 0.1, 0.1, None, 20, 1.0, 0)) for number in (10, 20, 30)]
    assert steady == [pytest.approx((20.0, left)) for left in (9.0, 8.0, 7.0)]
    slower = pace.add(StepDone(40, 100, 0.1, 0.1, None, 20, 3.0, 0))
    assert 20 / 3 < slower[0] < 20
    assert 6.0 < slower[1] < 18.0


def strip(number: int) -> PicturesDrawn:
    return PicturesDrawn(Path(f"out/samples/s-{number}.png"), 20, "a [red] star", (0,), (0.0, 1.0), number, 3)


def test_pictures_get_one_line_when_the_last_of_them_is_there():
    """With the folder that they are in; on a terminal the bar says which is being drawn."""
    assert plain(strip(1), strip(2)) == []
    line = f"drew 3 files in {Path('out/samples')} (step 20)"
    assert plain(strip(1), strip(2), strip(3)) == [line]
    screen = rich(STARTED, strip(1), strip(2), ENDED)
    assert "drawing 2/3" in screen
    assert line in rich(STARTED, strip(1), strip(2), strip(3), ENDED)


def test_several_runs_fit_a_screen_of_eighty_columns(monkeypatch):
    """Long paths lose their beginning, and no figure; each says whether it waits, trains or is done."""
    out = io.StringIO()
    monkeypatch.setattr(many_view, "Console", lambda: Console(file=out, force_terminal=True, width=80))
    long = "a_folder_with_a_rather_long_name/of_jobs_for_my_new_model/[red] and star.yaml"
    with many_view.ManyView([long, "two.yaml", "three.yaml"]) as view:
        view.notify(long, STARTED)
        view.notify(long, step(50))
        view.state("two.yaml", "done")
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).splitlines()
    last = [line.rstrip() for line in drawn if line.strip()][-3:]
    assert max(map(len, last)) <= 80
    assert [re.sub(r"[━╸╺ ]+", " ", line) for line in last] == [
        "…model/[red] and star.yaml 50/100 effect 0.40 trains",
        "two.yaml 0/? effect - done",
        "three.yaml 0/? effect - waits",
    ]
