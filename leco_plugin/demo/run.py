"""`leco demo`: train, measure on fresh seeds, draw, and say how the file is used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from leco_plugin.config.build import load_job
from leco_plugin.config.editors import with_schema_line
from leco_plugin.config.schema import JobConfig
from leco_plugin.demo.measure import Asked, Figures, Studio, erase_test, figures, read_all, slider_test
from leco_plugin.errors import ConfigError
from leco_plugin.lora.calibrate import calibrate
from leco_plugin.lora.subject import Asked as AskedSubject
from leco_plugin.observers.console.pages import Page
from leco_plugin.pictures.painter import strip
from leco_plugin.plugins import run_job
from leco_plugin.tiny.pictures import HUES

Kind = Literal["slider", "erase"]
ERASED = "red"
STRENGTHS: dict[str, tuple[float, ...]] = {"slider": (-2, -1, 0, 1, 2), "erase": (0, 0.5, 1, 1.5)}
EFFECT = {"builtin:tiny-flow": 1.32}
"""What an erase is calibrated to where the whole concept is not enough: at 1.01 half of this one's pictures are still
red, at 1.22 up to 17 %, from 1.28 on none, and some shapes break above 1.31; see benchmarks/README.md."""
STRIP_ROWS = 6
JOBS = Path(__file__).parent


@dataclass(frozen=True)
class Measured:
    """Figures at one strength, of all pictures and by colour."""

    strength: float
    all: Figures
    colours: dict[str, Figures]


def run_demo(kind: Kind, output: Path, seed: int, model: str = "builtin:tiny") -> bool:
    """Train the demo ``kind`` on a built-in ``model`` into the folder ``output``; False where the user stopped it.

    An erase is calibrated afterwards. Writes the LoRA, strip.png, demo.json and the job with its prompts. ConfigError
    where ``output`` cannot be used.
    """
    result = run_job(_job(kind, output, seed, model))
    if result.interrupted:
        return False
    if kind == "erase":
        calibrate(result.path, AskedSubject(seeds=1), result.path, effect=EFFECT.get(model))
    return _show(kind, output, seed, result.path, model)


def _show(kind: Kind, output: Path, seed: int, lora: Path, model: str) -> bool:
    """Measure the LoRA, and write and print what came of it."""
    asked = slider_test(seed) if kind == "slider" else erase_test(seed)
    page = Page()
    with page.working("drawing pictures on fresh seeds and reading them"):
        measured, sheet = _measure(kind, lora, asked, model)
    sheet.save(output / "strip.png")
    _write_numbers(kind, output, seed, lora, model, measured)
    _print(page, kind, measured)
    page.lines(_how_to_use(kind, output, lora, model))
    return True


def _job(kind: Kind, output: Path, seed: int, model: str) -> JobConfig:
    """The shipped job for ``model``, copied beside what it makes, so that it can be changed and run again."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name in (f"{kind}.yaml", f"{kind}.toml"):
            own = JOBS / model.removeprefix("builtin:") / name
            shipped = (own if own.is_file() else JOBS / name).read_text("utf-8")
            text = shipped.replace("builtin:tiny}", f"{model}}}")
            (output / name).write_text(with_schema_line("job" if name.endswith(".yaml") else "prompts", text), "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to {output}: {error.strerror}", fix="choose another --output") from None
    return load_job(
        output / f"{kind}.yaml", {"output_dir": str(output), "training_seed": seed, "save.overwrite": True}
    ).job


def _measure(kind: Kind, lora: Path, asked: Sequence[Asked], model: str) -> tuple[list[Measured], Image.Image]:
    studio = Studio(model, lora, [one.prompt for one in asked])
    drawn = {strength: studio.pictures(asked, strength) for strength in STRENGTHS[kind]}
    measured = [_figures_at(strength, asked, pictures) for strength, pictures in drawn.items()]
    shown = _shown(kind, asked)
    labels = [f"{strength:g}" for strength in drawn]
    sheet = strip([[pictures[number] for pictures in drawn.values()] for number in shown], labels, zoom=2)
    return measured, sheet


def _figures_at(strength: float, asked: Sequence[Asked], pictures: Sequence[Image.Image]) -> Measured:
    readings = read_all(pictures)
    colours = {}
    for colour in HUES:
        of_colour = [number for number, one in enumerate(asked) if one.colour == colour]
        colours[colour] = figures([asked[n] for n in of_colour], [readings[n] for n in of_colour])
    return Measured(strength, figures(asked, readings), colours)


def _shown(kind: Kind, asked: Sequence[Asked]) -> list[int]:
    """Which pictures make the strip: one of every colour, the erased one first and twice."""
    by_colour = {colour: [n for n, one in enumerate(asked) if one.colour == colour] for colour in HUES}
    if kind == "slider":
        return [numbers[row % len(numbers)] for row, numbers in enumerate(by_colour.values())][:STRIP_ROWS]
    erased = by_colour.pop(ERASED)
    others = [numbers[(row * 4 + 1) % len(numbers)] for row, numbers in enumerate(by_colour.values())]
    return [erased[1], erased[-1], *others]


def _write_numbers(kind: Kind, output: Path, seed: int, lora: Path, model: str, measured: Sequence[Measured]) -> None:
    tree = {
        "demo": kind,
        "model": model,
        "seed": seed,
        "lora": lora.name,
        "strip": "strip.png",
        **({"erased": ERASED} if kind == "erase" else {}),
        "strengths": [asdict(one) for one in measured],
    }
    (output / "demo.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def _print(page: Page, kind: Kind, measured: Sequence[Measured]) -> None:
    if kind == "slider":
        head = ["strength", "mean area (pixels)", "colour as asked", "shape as asked"]
        rows = [
            [f"{m.strength:+g}", f"{m.all.mean_area:.0f}", _percent(m.all.colour_right), _percent(m.all.shape_right)]
            for m in measured
        ]
        title = f"size slider, {measured[0].all.pictures} pictures a strength, seeds that training never saw"
    else:
        others = [colour for colour in HUES if colour != ERASED]
        head = ["strength", f"{ERASED} (erased)", *others]
        rows = [[f"{m.strength:g}", *(_with_hue(m.colours[colour]) for colour in (ERASED, *others))] for m in measured]
        title = f"erase {ERASED}: pictures in the colour asked for, hue, shapes as asked ({_count(measured)} a colour)"
    page.table(title, head, rows)


def _count(measured: Sequence[Measured]) -> int:
    return measured[0].colours[ERASED].pictures


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _with_hue(one: Figures) -> str:
    hue = "" if one.hue is None else f"\n{one.hue:.0f} deg"
    return f"{_percent(one.colour_right)}{hue}\nshape {_percent(one.shape_right)}"


def _how_to_use(kind: Kind, output: Path, lora: Path, model: str) -> list[str]:
    strengths = "-2 to 2" if kind == "slider" else "0 to 1"
    load = f'pipe.load_lora_weights("{lora.parent}", weight_name="{lora.name}", adapter_name="leco")'
    return [
        f"pictures  {output / 'strip.png'}",
        f"numbers   {output / 'demo.json'}",
        f"LoRA      {lora}",
        f"job       {output / kind}.yaml with {kind}.toml: change them, then: leco train {output / kind}.yaml",
        "",
        f"A LoRA fits the model it was trained on, this one {model}. Yours is used the same way, at {strengths}:",
        "ComfyUI    put it into models/loras, add a LoraLoaderModelOnly node and set strength_model",
        f"A1111      put it into models/Lora, write <lora:{lora.stem}:1> into the prompt",
        f'diffusers  {load}; pipe.set_adapters("leco", 1.0)',
    ]
