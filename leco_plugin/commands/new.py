"""`leco new`: five questions, or flags, and a job that can be checked and trained."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from leco_plugin.commands.arguments import Commands, add_words
from leco_plugin.commands.codes import OK
from leco_plugin.errors import ConfigError
from leco_plugin.streams import write_lines
from leco_plugin.tiny import BUILTIN

if TYPE_CHECKING:
    from leco_plugin.config.schema import JobConfig

HOSTS = ("builtin", "ai-toolkit", "onetrainer")
_NEXT = {
    "builtin": ("leco check {job}", "leco train {job}"),
    "ai-toolkit": (
        "leco check --host ai-toolkit {job}",
        "leco host run ai-toolkit {job}",
        "leco host submit ai-toolkit {job}",
    ),
    "onetrainer": (
        "leco check --host onetrainer {job} {prompts}",
        "leco host run onetrainer {job} {prompts} --steps {steps}",
    ),
}
"""The next commands; of ai-toolkit's two, the second puts the job into its window's queue."""
_Check = Callable[[str], object]


def add(commands: Commands) -> None:
    """Add `leco new`."""
    about = "write a job and a prompt file, by five questions or by these flags"
    new = commands.add_parser("new", help=about, description=about.capitalize())
    new.add_argument("--kind", choices=("slider", "erase"), help="what it is for")
    add_words(new)
    new.add_argument("--memory", metavar="GB", help="memory of the graphics card; 0: none, on the CPU")
    new.add_argument("--host", choices=HOSTS, help="trainer that runs it")
    new.add_argument("--output", default="output", metavar="DIR", help="files are in DIR/NAME (default: %(default)s)")
    new.set_defaults(command=_new)


def _new(options: argparse.Namespace) -> int:
    _answer(options)
    options.jobs = []
    job, paths = _written(options, gigabytes(options.memory))
    paths = [path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path for path in paths]
    shown = {"job": _quoted(paths[0]), "prompts": _quoted(paths[-1]), "steps": job.train.steps}
    lines = [f"wrote {path}" for path in paths] + ["next:"]
    write_lines(sys.stdout, [*lines, *(f"  {line.format(**shown)}" for line in _NEXT[options.host])])
    return OK


def _answer(options: argparse.Namespace) -> None:
    """Ask for what no flag says; ConfigError for what cannot be meant, and where nobody can be asked."""
    from leco_plugin.families.known import check_named

    if options.kind is None and (options.erase or options.positive):
        options.kind = "erase" if options.erase else "slider"
    if options.kind == "slider" and options.erase:
        raise ConfigError("--kind slider and --erase do not go together", fix="leave one of them out")
    _ask(options, "kind", "What is it for: a slider, or erasing something", ("slider", "erase"))
    _ask(options, "model", "Which model (folder, file, hub id, builtin:tiny)", check=check_named)
    if options.kind == "erase":
        _ask(options, "erase", "What shall no longer be drawn (such as: van gogh)")
    else:
        _ask(options, "target", "What does the slider act on (such as: a woman)")
        _ask(options, "positive", "What shall it be at +1 (such as: a woman, very long hair)")
        _ask(options, "negative", "And at -1 (such as: a woman, very short hair)")
    _ask(options, "memory", "Memory of the graphics card in GB (0: there is none)", check=gigabytes)
    _ask(options, "host", "Which trainer runs it", HOSTS)
    if options.kind == "erase":
        # found among the model's own words when the run begins
        options.preserve = options.preserve or ["auto"]
    if options.model in BUILTIN and options.host != "builtin":
        raise ConfigError(f"{options.model} is a model of this program, not of {options.host}", fix="--host builtin")


def gigabytes(text: str) -> int:
    """``12``, ``12GB`` or ``12 gb`` as a number; ConfigError for what is none."""
    number = text.lower().removesuffix("gb").strip()
    if not number.isdecimal():
        raise ConfigError(
            f"--memory {text!r} is no number of GB", fix="a whole number, such as 12; 0 for no graphics card"
        )
    return int(number)


def _ask(
    options: argparse.Namespace, name: str, question: str, choices: tuple[str, ...] = (), check: _Check = str
) -> None:
    given = getattr(options, name)
    if given is not None:
        check(given)
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"there is nobody to ask: {question.lower()}?", fix=f"add --{name}")
    from leco_plugin.observers.console.questions import ask

    setattr(options, name, ask(question, choices, check))


def _written(options: argparse.Namespace, memory: int) -> tuple[JobConfig, list[Path]]:
    """Write the files that the host needs; gives what they mean, and their paths, the prompt file last."""
    from leco_plugin.commands.written import AGAIN, job_text, meant, write_beside
    from leco_plugin.config.editors import without_schema_line
    from leco_plugin.config.fit import Fit, fit
    from leco_plugin.config.schema import ModelConfig
    from leco_plugin.families.known import find_family

    family = find_family(ModelConfig(name_or_path=options.model))
    builtin = options.model in BUILTIN
    held = Fit() if builtin else fit(family, options.model, memory)
    # ai-toolkit runs in its own folder, which a relative one would be in
    folder = Path(options.output).absolute() if options.host == "ai-toolkit" else options.output
    ours: dict[str, object] = {"training_folder": str(folder)}
    if memory and not builtin:
        ours["train.dtype"] = "bf16"
    if held.checkpointing:
        ours["train.gradient_checkpointing"] = True
    if options.host == "builtin":
        ours |= {"memory.quantize": "int8"} if held.eight_bits else {}
        ours |= {"memory.offload": "layers"} if held.offload else {}
    job, toml = meant(options, ours)
    if options.host == "onetrainer":
        from leco_plugin.hosts.onetrainer.first_config import host_config

        return job, write_beside(job, toml, host_config(job, family, held, on_cpu=not memory), ".json")
    theirs: dict[str, object] = {}
    if options.host == "ai-toolkit":
        from leco_plugin.hosts.ai_toolkit.first_job import host_options

        theirs = host_options(family, options.model, held, on_cpu=not memory)
    said = {**ours, **theirs, "training_seed": job.training_seed}
    again = AGAIN if options.host == "builtin" else "leco host run ai-toolkit {file}"
    text = job_text(job, said, again)
    # that schema has none of the host's own keys
    return job, write_beside(job, toml, without_schema_line(text) if "model.arch" in theirs else text)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path)) if sys.platform != "win32" else f'"{path}"' if " " in str(path) else str(path)
