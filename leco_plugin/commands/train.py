"""`leco train`, and the commands that take sd-scripts' flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from leco_plugin.commands.arguments import Commands, add_words
from leco_plugin.commands.codes import INTERRUPTED, OK
from leco_plugin.errors import ConfigError
from leco_plugin.launched import NOT_STARTED, one_instead_of_several, place
from leco_plugin.streams import write_lines

_RAY = "train on a Ray cluster, a job a free GPU (or CPU); without an address one on this machine is started"


def add(commands: Commands) -> None:
    """Add `leco train`."""
    train = commands.add_parser("train", help="train LoRAs from job files, a prompt file, or words alone")
    files = "job file (YAML or JSON), or several; or one prompt file, with --model; or none, with words"
    train.add_argument("jobs", type=Path, nargs="*", metavar="JOB", help=files)
    add_words(train)
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one option of the job")
    train.add_argument("--host", default="builtin", help="trainer that runs it (default: %(default)s)")
    train.add_argument("--again", action="store_true", help="of several jobs, train also those that are finished")
    train.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help=_RAY)
    train.set_defaults(command=_train)


def _train(options: argparse.Namespace) -> int:
    from leco_plugin.config.build import parse_overrides

    if options.ray and Path(options.ray).is_file():
        raise ConfigError(f"--ray {options.ray}: that is a file, not an address", fix="put --ray after the jobs")
    overrides = parse_overrides(options.set)
    if not _without_job(options):
        return _train_jobs(options, overrides)
    from leco_plugin.commands.written import OF_THIS_RUN, written_job

    with written_job(options, overrides) as job:
        options.jobs = [job]
        # all others are in the written job
        return _train_jobs(options, {name: overrides[name] for name in OF_THIS_RUN if name in overrides})


def _train_jobs(options: argparse.Namespace, overrides: Mapping[str, object]) -> int:
    from leco_plugin.config.build import load_job

    if len(options.jobs) > 1 or options.ray or options.again:
        from leco_plugin.commands.train_many import train_many

        return train_many(options.jobs, overrides, options.host, again=options.again, cluster=options.ray)
    loaded = load_job(options.jobs[0], overrides)
    _say(f"warning: {warning}" for warning in loaded.warnings)
    from leco_plugin.families.known import settle
    from leco_plugin.plugins import run_job

    job = settle(loaded.job, fetch=True).job
    return INTERRUPTED if run_job(job, host=options.host).interrupted else OK


def _without_job(options: argparse.Namespace) -> bool:
    """Whether a job has to be written first; ConfigError for what does not go together."""
    from leco_plugin.config.recognise import Kind, recognise

    words = [name for name in ("target", "positive", "negative", "erase", "preserve") if getattr(options, name)]
    if not options.jobs and not words:
        raise ConfigError(
            "there is nothing to train", fix='name a job or prompt file, or write --model M --erase "..."'
        )
    prompts = len(options.jobs) == 1 and recognise(options.jobs[0]).kind is Kind.PROMPTS
    if options.jobs and words:
        raise ConfigError(f"--{words[0]} and {options.jobs[0]} both say what to train", fix="leave one of them out")
    if options.jobs and not prompts and (options.model or options.name):
        fix = "write --set model.name_or_path=MODEL or --set name=NAME to change a job"
        raise ConfigError("--model and --name are for a prompt file or words, and a job has its own", fix=fix)
    return prompts or bool(words)


def train_flags(arguments: Sequence[str], *, sdxl: bool) -> int:
    """Train from sd-scripts' flags; gives the exit code."""
    from leco_plugin.config.sd_scripts import load_flags

    loaded = load_flags(arguments, sdxl=sdxl)
    _say((*loaded.notes, *(f"warning: {warning}" for warning in loaded.warnings)))
    from leco_plugin.plugins import run_job

    return INTERRUPTED if run_job(loaded.job).interrupted else OK


def _say(lines: Iterable[str]) -> None:
    """Write to stderr, once for all processes of a run."""
    if place().first:
        write_lines(sys.stderr, lines)
        if one_instead_of_several():
            write_lines(sys.stderr, [f"warning: {NOT_STARTED}"])
