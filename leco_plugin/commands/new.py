"""`leco new`: five questions, or flags, and a job that can be checked and trained."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from leco_plugin.commands.arguments import Commands
from leco_plugin.commands.codes import OK
from leco_plugin.config.editors import with_schema_line
from leco_plugin.config.families import FLOW_FAMILIES
from leco_plugin.config.schema import ModelConfig
from leco_plugin.errors import ConfigError
from leco_plugin.streams import write_lines

HOSTS = ("builtin", "ai-toolkit", "onetrainer")
_SMALL, _MIDDLE = 8, 16
_NEXT = {
    "builtin": ("leco check {job}", "leco train {job}"),
    "ai-toolkit": (
        "leco check --host ai-toolkit {job}",
        "leco host run ai-toolkit {job}",
        "leco host submit ai-toolkit {job}",
    ),
    "onetrainer": ("leco check {prompts}", "leco host ui onetrainer {prompts} --steps {steps}"),
}
"""The next commands; of ai-toolkit's two, the second puts the job into its window's queue."""


def add(commands: Commands) -> None:
    """Add `leco new`."""
    about = "write a job and a prompt file, by five questions or by these flags"
    new = commands.add_parser("new", help=about, description=about.capitalize())
    new.add_argument("--kind", choices=("slider", "erase"), help="what it is for")
    new.add_argument("--model", metavar="MODEL", help="folder, file, hub id, builtin:tiny or builtin:tiny-flow")
    new.add_argument("--target", metavar="TEXT", help="of a slider: the prompt that it acts on")
    new.add_argument("--positive", metavar="TEXT", help="what strength +1 shall be")
    new.add_argument("--negative", metavar="TEXT", help="what strength -1 shall be")
    new.add_argument("--erase", metavar="TEXT", help="what shall no longer be drawn")
    new.add_argument(
        "--preserve", action="append", default=[], metavar="TEXT", help="a prompt that shall stay, or auto"
    )
    new.add_argument("--memory", type=int, metavar="GB", help="memory of the graphics card; 0: none, on the CPU")
    new.add_argument("--host", choices=HOSTS, help="trainer that runs it")
    new.add_argument("--name", metavar="NAME", help="what the LoRA is called; from the words where absent")
    new.add_argument("--output", default="output", metavar="DIR", help="files are in DIR/NAME (default: %(default)s)")
    new.set_defaults(command=_new)


def _new(options: argparse.Namespace) -> int:
    from leco_plugin.commands.written import write_job

    _answer(options)
    options.jobs, options.negative = [], options.negative or ""
    if options.host == "onetrainer":
        written, steps = _prompts_alone(options)
    else:
        overrides = {**_memory(options), **_for_host(options), "training_folder": options.output}
        written, steps = write_job(options, overrides), 0
    prompts = written.with_suffix(".toml")
    lines = [f"wrote {path}" for path in dict.fromkeys((written, prompts))] + ["next:"]
    shown = {"job": _quoted(written), "prompts": _quoted(prompts), "steps": steps}
    write_lines(sys.stdout, [*lines, *(f"  {line.format(**shown)}" for line in _NEXT[options.host])])
    return OK


def _answer(options: argparse.Namespace) -> None:
    """Ask for what no flag says; ConfigError where nobody can be asked."""
    if options.kind is None and (options.erase or options.positive):
        options.kind = "erase" if options.erase else "slider"
    _ask(options, "kind", "What is it for: a slider, or erasing something", ("slider", "erase"))
    _ask(options, "model", "Which model (folder, file, hub id, builtin:tiny)")
    if options.kind == "erase":
        _ask(options, "erase", "What shall no longer be drawn (such as: van gogh)")
    else:
        _ask(options, "target", "What does the slider act on (such as: a woman)")
        _ask(options, "positive", "What shall it be at +1 (such as: a woman, very long hair)")
        _ask(options, "negative", "And at -1 (such as: a woman, very short hair)")
    _ask(options, "memory", "Memory of the graphics card in GB (0: there is none)", ("0", "8", "12", "16", "24"))
    _ask(options, "host", "Which trainer runs it", HOSTS)
    if options.kind == "erase" and options.host == "builtin":
        # found among the model's own words when the run begins, and shown by `leco check --model`; other hosts cannot
        options.preserve = options.preserve or ["auto"]
    if "auto" in options.preserve and options.host != "builtin":
        fix = "name prompts near it with --preserve, once for each"
        raise ConfigError(f"{options.host} does not find by itself what lies near", fix=fix)
    options.memory = int(options.memory)
    if options.memory < 0:
        raise ConfigError(f"--memory {options.memory} is less than nothing", fix="0 for no graphics card")


def _ask(options: argparse.Namespace, name: str, question: str, choices: tuple[str, ...] = ()) -> None:
    if getattr(options, name) is not None:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"there is nobody to ask: {question.lower()}?", fix=f"add --{name}")
    from leco_plugin.observers.console.questions import ask

    setattr(options, name, ask(question, choices))


def _family(options: argparse.Namespace) -> str | None:
    from leco_plugin.families.known import find_family

    return find_family(ModelConfig(name_or_path=options.model))


def _memory(options: argparse.Namespace) -> dict[str, object]:
    """What makes it fit, as `leco check` would advise; it says with the model's own sizes whether that is enough."""
    family = _family(options) or ""
    if options.memory == 0 or family.startswith("tiny"):
        return {}
    flow = family in FLOW_FAMILIES
    found: dict[str, object] = {"train.dtype": "bf16"}
    if flow or options.memory <= (_MIDDLE if family == "sdxl" else _SMALL):
        found["train.gradient_checkpointing"] = True
    if flow and options.memory <= _MIDDLE and options.host == "builtin":
        found["memory.quantize"] = "int8"
        if options.memory <= _SMALL:
            found["memory.offload"] = "layers"
    return found


def _for_host(options: argparse.Namespace) -> dict[str, object]:
    if options.host != "ai-toolkit":
        return {}
    family = _family(options) or ""
    if family in FLOW_FAMILIES or family.startswith("tiny"):
        fix = "add model.arch as ai-toolkit calls it to a job of --host builtin (docs/ai-toolkit.md has the names)"
        raise ConfigError(f"ai-toolkit needs to be told what {options.model} is", fix=fix)
    device = "cuda:0" if options.memory else "cpu"
    own: dict[str, object] = {"device": device, "train.optimizer": "adamw", "train.noise_scheduler": "ddim"}
    return {**own, "model.is_xl": True} if family == "sdxl" else own


def _prompts_alone(options: argparse.Namespace) -> tuple[Path, int]:
    """The prompt file, and none beside it: OneTrainer's own config has all else, but for the number of steps."""
    from leco_plugin.commands.written import meant, write_files

    job, toml = meant(options, {"training_folder": options.output})
    path = job.output_folder / f"{job.name}.toml"
    write_files({path: with_schema_line("prompts", toml)}, "choose another --name")
    return path, job.train.steps


def _quoted(path: Path) -> str:
    return shlex.quote(str(path)) if sys.platform != "win32" else f'"{path}"' if " " in str(path) else str(path)
