"""`leco report`: one page that says what a run was, in any browser, without a server or a network."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from models import tiny_job
from PIL import Image

from leco_plugin.commands.main import main
from leco_plugin.config.run import describe_job
from leco_plugin.config.schema import JobConfig
from leco_plugin.errors import ConfigError
from leco_plugin.events import PicturesDrawn, RunEnded, RunStarted, Saved, StepDone, Warned
from leco_plugin.observers.history import HistoryWriter
from leco_plugin.pictures.painter import strip
from leco_plugin.pictures.strips import save_picture
from leco_plugin.plugins import plugin_manager, run_job
from leco_plugin.report.curves import Curve, draw_curve
from leco_plugin.report.run import find_run, galleries

EVIL = "<script>document.title='broken'</script>\"'&"
COLOURS = ("red", "lime", "blue")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def write_run(folder: Path) -> JobConfig:
    """A run's folder with a history and pictures: one colour a strength, darker at the first step."""
    job = tiny_job(folder, name="my run", pairs=[{"target": EVIL, "positive": "red"}])
    writer, output = HistoryWriter(describe_job(job)), job.output_folder
    writer.notify(RunStarted(job.name, 2, (("model", "builtin:tiny"), ("saved to", "/home/somebody/my run"))))
    for step in (0, 2):
        if step:
            writer.notify(StepDone(2, 2, 0.25, 1e-4, 0.5, 1, 1.5, 2**20, effect=0.4, side_effect=0.3, drift=0.125))
        for number in (1, 2):
            path = output / "samples" / f"{step}-{number}.png"
            tiles = [
                Image.new("RGB", (64, 64), colour).point(lambda v, s=step: v if s else v // 2) for colour in COLOURS
            ]
            save_picture(path, strip([tiles], ["-1", "base", "+1"]))
            writer.notify(PicturesDrawn(path, step, EVIL, (number,), (-1.0, 0.0, 1.0), number, 2))
    writer.notify(Warned(f"it warns of {EVIL}"))
    writer.notify(RunEnded(output / "my run.safetensors", 2, 3.0, interrupted=False, means="it moves pictures"))
    return job


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_run(folder)
    assert main(["report", str(folder / "my run")]) == 0
    return folder / "my run" / "my run.report.html"


class Tags(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_what_the_run_was_is_on_the_page(page_file):
    """Pairs in words, figures, warnings and settings; no path of the machine that it ran on."""
    text = " ".join(Tags(page_file.read_text("utf-8")).text.split())
    assert f"Erase 'red': when asked for '{EVIL}', predict what '' predicts, minus 1.0 x what 'red' adds" in text
    assert f"it warns of {EVIL}" in text
    assert re.search(
        r"Effect at strength 1 0.40 .*Drift of other prompts 0.12 .*Goal reached 50 % .*Time of training 0:02", text
    )
    assert "Model builtin:tiny" in text
    assert "train.lr 0.001 " in text
    assert "/home/somebody" not in text


def test_the_page_needs_nothing_from_outside(page_file):
    """One file: pictures are in it, its one script is the one whose hash it allows, and prompts are only text."""
    text = page_file.read_text("utf-8")
    tags = Tags(text).tags
    sources = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href")]
    assert sources
    assert all(source.startswith("data:") for source in sources if source)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for tag, a in tags if tag == "meta" and "http-equiv" in a)
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert [tag for tag, _ in tags].count("script") == 1
    assert "url(" not in text
    assert "@import" not in text


def browser_path() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = browser_path()
    if path is None:
        pytest.skip(f"there is no browser here: none of {', '.join(BROWSERS)} is on the PATH")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        # root has no sandbox, and pages under test are our own
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The report in a browser; anything on its console, and any request, fails the test."""
    problems: list[str] = []
    opened = browser.new_page()
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("requestfailed", lambda request: problems.append(request.url[:80]))
    opened.on("request", lambda request: request.url.startswith(("data:", "file:")) or problems.append(request.url))
    opened.goto(page_file.as_uri())
    yield opened
    opened.close()
    assert problems == []


def visible_colours(page: Any) -> list[list[int]]:
    """The middle pixel of each picture that is shown, the base model's left out."""
    return page.evaluate(
        """async () => Promise.all([...document.querySelectorAll("img[data-strength]:not([hidden])")].map(async img => {
            await img.decode();
            const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
            pen.drawImage(img, 0, 0);
            return [...pen.getImageData(32, 32, 1, 1).data].slice(0, 3);
        }))"""
    )


def test_the_slider_moves_by_keyboard_and_the_pictures_with_it(page):
    """Both rows at once, through all strengths; what is chosen is written beside it, also for a screen reader."""
    slider = page.get_by_label("Strength of the LoRA")
    assert visible_colours(page) == [[0, 0, 255]] * 2
    slider.focus()
    seen = []
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft", "End", "Home"):
        page.keyboard.press(key)
        seen.append((slider.get_attribute("aria-valuetext"), visible_colours(page)[0]))
        assert page.locator(".sliders output").first.inner_text() == seen[-1][0]
    assert seen == [
        ("base", [0, 255, 0]), ("-1", [255, 0, 0]), ("-1", [255, 0, 0]), ("+1", [0, 0, 255]), ("-1", [255, 0, 0])
    ]  # fmt: skip


def test_another_slider_goes_through_the_training(page):
    """From the last pictures to those before the first step, at the strength that is chosen."""
    page.get_by_label("After training step").focus()
    page.keyboard.press("Home")
    assert visible_colours(page) == [[0, 0, 127]] * 2
    assert page.get_by_label("After training step").get_attribute("aria-valuetext") == "0"


def test_a_prompt_is_never_run(page):
    """It is shown letter by letter, and the title is the run's."""
    assert page.title() == "my run"
    assert page.locator(".shot > p").first.inner_text().startswith(EVIL)
    assert page.locator(".warnings li").inner_text() == f"it warns of {EVIL}"


@pytest.mark.parametrize("width", [1200, 320])
def test_the_page_follows_the_screen(page, width):
    """Nothing is wider than a phone; dark where that is asked for."""
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    brightness = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness.append(sum(map(int, re.findall(r"\d+", background))))
    assert brightness[0] > 700
    assert brightness[1] < 100


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of two steps without pictures; its folder."""
    folder = tmp_path_factory.mktemp("trained")
    job = tiny_job(folder, train={"steps": 2, "lr": 1e-2}, save={"save_every": 1})
    run_job(job, manager=plugin_manager(installed=False))
    return job.output_folder


def images(page: Path) -> list[str | None]:
    return [a["alt"] for tag, a in Tags(page.read_text("utf-8")).tags if tag == "img"]


def test_a_run_without_pictures_gets_some_of_its_lora(trained, tmp_path, capsys):
    """Of the prompts that it was trained on, at some strengths; or none where they are not wanted."""
    page = tmp_path / "sub" / "report.html"
    assert main(["report", str(trained), "--output", str(page)]) == 0
    assert images(page) == ["red, base model", *(f"red, strength {s}" for s in ("base", "+0.5", "+1", "+1.5"))]
    assert capsys.readouterr().out.splitlines()[-1] == f"the report is {page}"
    assert main(["report", str(trained), "--output", str(page), "--no-pictures"]) == 0
    assert images(page) == []


def test_a_lora_without_a_history_has_what_its_metadata_tells(trained, tmp_path):
    """Pairs in words and every key; of a file that has neither, the page says that there are no pictures."""
    lora = shutil.copy(trained / "tiny.safetensors", tmp_path / "other.safetensors")
    assert main(["report", str(lora), "--no-pictures"]) == 0
    text = Tags((tmp_path / "other.report.html").read_text("utf-8")).text
    assert "Erase 'red'" in text
    assert "ss_leco_pairs" in text


def test_a_model_that_is_out_of_reach_costs_the_pictures_alone(trained, tmp_path, capsys):
    """The page says why; only who names a model gets an error."""
    shutil.copy(trained / "tiny.safetensors", tmp_path / "tiny.safetensors")
    history = (trained / "tiny.run.jsonl").read_text("utf-8")
    (tmp_path / "tiny.run.jsonl").write_text(history.replace("builtin:tiny", "gone.safetensors"), "utf-8")
    assert main(["report", str(tmp_path)]) == 0
    assert "gone.safetensors" in Tags((tmp_path / "tiny.report.html").read_text("utf-8")).text
    assert "the report has no pictures: gone.safetensors" in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--model", "also_gone.safetensors"]) == 2


def test_the_run_of_an_intermediate_file_is_found(trained):
    """By its name without the step; the history names the final file."""
    step = find_run(trained / "tiny-step00000001.safetensors")
    assert step.history is not None
    assert (step.lora, step.name) == (trained / "tiny-step00000001.safetensors", "tiny")
    assert find_run(trained).lora == trained / "tiny.safetensors"


@pytest.mark.parametrize(
    ("files", "named", "message"),
    [
        ([], "", "holds no run"),
        (["a.safetensors", "b.safetensors"], "", "several runs: a.safetensors, b.safetensors"),
        (["a.txt"], "a.txt", "neither a run nor a LoRA"),
        ([], "gone.safetensors", "there is no"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, files, named, message):
    """In one sentence with what to name instead."""
    for file in files:
        (tmp_path / file).write_text("")
    with pytest.raises(ConfigError, match=message) as caught:
        find_run(tmp_path / named)
    assert "name" in caught.value.problems[0].fix


def test_pictures_of_a_long_run_are_some_of_them(tmp_path):
    """Six steps at most, the first and the last among them; files that are gone are left out."""
    events = []
    for step in range(0, 110, 10):
        path = tmp_path / f"{step}.png"
        save_picture(path, strip([[Image.new("RGB", (8, 8))] * 2], ["a", "b"]))
        events.append(PicturesDrawn(path, step, "p", (0,), (0.0, 1.0), 1, 1))
    events[0].path.unlink()
    (gallery,) = galleries(events)
    assert (gallery.steps[0], gallery.steps[-1], len(gallery.steps)) == (10, 100, 6)
    assert len(gallery.shots[0].files[""]) == 12


def test_prompts_that_were_added_later_are_shown_at_the_steps_that_all_have(tmp_path):
    """A job may be resumed with other prompts: those of its end count."""
    path = tmp_path / "a.png"
    save_picture(path, strip([[Image.new("RGB", (8, 8))] * 2], ["a", "b"]))
    drawn = [
        (0, "old", 1),
        (0, "kept", 2),
        (5, "kept", 2),
        (5, "new", 1),
        (9, "kept", 2),
        (9, "new", 1),
        (12, "new", 1),
    ]
    events = []
    for file, (step, prompt, number) in enumerate(drawn):
        shutil.copy(path, own := tmp_path / f"{file}.png")
        events.append(PicturesDrawn(own, step, prompt, (0,), (0.0, 1.0), number, 2))
    (gallery,) = galleries(events)
    # after step 12 the second is still being drawn
    assert gallery.steps == (5, 9)
    assert {shot.prompt for shot in gallery.shots} == {"kept", "new"}


def test_a_curve_goes_from_the_first_value_to_the_last():
    """By hand: steps 1 to 3 over 362 pixels of width, 0 to 1 over 166 of height."""
    drawn = draw_curve(Curve("Goal <b>", [(1, 0.0), (2, 0.5), (3, 1.0)], percent=True, asked=1.0))
    assert '<path class="line" d="M48.0 176.0L229.0 93.0L410.0 10.0"/>' in drawn
    assert '<path class="asked" d="M48 10.0H410"/>' in drawn
    assert "Goal &lt;b&gt;, step 1 to 3: from 0 % to 100 %" in drawn
    assert draw_curve(Curve("Nothing", [])) == ""


@pytest.mark.parametrize("points", [[(1, 0.0)], [(1, -3.0), (2, 4e9)], [(n, 0.5) for n in range(5000)]])
def test_any_figures_make_a_curve(points):
    """One point, huge spans, thousands of steps: every number is finite and inside the drawing."""
    for percent in (False, True):
        drawn = draw_curve(Curve("Loss", points, percent=percent, smooth=not percent))
        numbers = [float(n) for path in re.findall(r' d="([^"]+)"', drawn) for n in re.findall(r"-?[\d.]+", path)]
        assert all(0 <= number <= 420 for number in numbers)
        assert len(drawn) < 30_000


def test_saved_states_are_no_loras(tmp_path):
    """A history without a LoRA that is still there has none."""
    job = write_run(tmp_path)
    writer = HistoryWriter(describe_job(job))
    writer.notify(RunStarted(job.name, 2, ()))
    (job.output_folder / "x-state").mkdir()
    writer.notify(Saved(job.output_folder / "x-state", 1, final=False))
    assert find_run(job.output_folder).lora is None
