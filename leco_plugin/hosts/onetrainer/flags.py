"""The command line of a run: OneTrainer's own flags for a headless run, and LECO's. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leco_plugin.config.blame import check_texts, read_model
from leco_plugin.config.build import parse_overrides
from leco_plugin.config.findings import Findings
from leco_plugin.config.names import SAMPLERS
from leco_plugin.config.schema import LecoConfig
from leco_plugin.errors import ConfigError
from leco_plugin.hosts.folders import HostParser, folder_of

EPOCH_STEPS = 100
_HOST = "onetrainer"


@dataclass(frozen=True)
class Flags:
    """What a command line asks for; every path is absolute."""

    root: Path
    prompts: Path
    leco: LecoConfig
    sampler: str | None
    """Sampler of the walk; None is the model's own kind: ddim, or Euler along a flow."""
    epoch_steps: int
    """Batches that the host counts as one epoch."""
    steps: int | None
    """Optimizer steps of the run; the host's epochs say it where absent."""
    seed: int | None
    config: Path | None = None
    """The host's config, and what else it is read from; None where the window has it."""
    preset: Path | None = None
    secrets: Path | None = None
    values: tuple[str, ...] = ()
    """Single values of the host's config, as KEY=VALUE."""


def read_flags(arguments: Sequence[str]) -> Flags:
    """Read the command line of a run; raises ConfigError for what cannot be meant."""
    about = "Train a LECO LoRA in OneTrainer, from a config that its UI has exported and a prompt file."
    parser = HostParser("run", _HOST, about)
    parser.add_argument("config", type=Path, nargs="?", metavar="CONFIG", help="config that its UI has exported (JSON)")
    _common(parser)
    host = parser.add_argument_group("OneTrainer")
    host.add_argument("--config-path", type=Path, metavar="FILE", help="the same as CONFIG")
    host.add_argument("--preset-path", type=Path, metavar="FILE", help="one of its presets, read before the config")
    host.add_argument(
        "--config-value", action="append", default=[], metavar="KEY=VALUE", help="change one value of its config"
    )
    host.add_argument("--secrets-path", type=Path, metavar="FILE", help="its secrets (JSON)")
    given = parser.parse_args(list(arguments))
    config = given.config_path or given.config
    if config is None or (given.prompts_path or given.prompts) is None:
        raise ConfigError("a config of OneTrainer and a prompt file are needed", fix=f"{parser.prog} CONFIG PROMPTS")
    return _flags(
        given,
        config=config.absolute(),
        preset=given.preset_path and given.preset_path.absolute(),
        secrets=given.secrets_path and given.secrets_path.absolute(),
        values=tuple(given.config_value),
    )


def read_window_flags(arguments: Sequence[str]) -> Flags:
    """Read the command line of the window, which has the config itself."""
    parser = HostParser("ui", _HOST, "Open OneTrainer's window, with a prompt file in the place of pictures.")
    _common(parser)
    given = parser.parse_args(list(arguments))
    if (given.prompts_path or given.prompts) is None:
        raise ConfigError("a prompt file is needed", fix=f"{parser.prog} PROMPTS")
    return _flags(given)


def _flags(given: argparse.Namespace, **host: Any) -> Flags:
    if given.steps and given.epoch_steps:
        raise ConfigError("--steps and --epoch-steps both say how long the run is", fix="leave out one of them")
    return Flags(
        root=folder_of(_HOST, given.root),
        prompts=(given.prompts_path or given.prompts).absolute(),
        leco=_leco(given.leco, given.preserve),
        sampler=given.noise_scheduler,
        epoch_steps=given.epoch_steps or EPOCH_STEPS,
        steps=given.steps,
        seed=given.seed,
        **host,
    )


def _common(parser: HostParser) -> None:
    """Add what runs and the window have in common."""
    parser.add_argument("prompts", type=Path, nargs="?", metavar="PROMPTS", help="prompt file (TOML, YAML or JSON)")
    parser.add_root()
    leco = parser.add_argument_group("LECO")
    leco.add_argument("--prompts", dest="prompts_path", type=Path, metavar="FILE", help="the same as PROMPTS")
    leco.add_argument(
        "--leco",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"an option of a job's leco section: {', '.join(LecoConfig.model_fields)}",
    )
    leco.add_argument(
        "--preserve", action="append", default=[], metavar="PROMPT", help="a prompt that shall stay as it is"
    )
    leco.add_argument(
        "--noise-scheduler", choices=SAMPLERS, help="sampler of the walk (default: ddim; Euler for flows)"
    )
    leco.add_argument(
        "--epoch-steps", type=_positive, metavar="N", help=f"batches of an epoch (default: {EPOCH_STEPS})"
    )
    leco.add_argument(
        "--steps", type=_positive, metavar="N", help="optimizer steps of the run, whatever the epochs say"
    )
    leco.add_argument("--seed", type=_seed, metavar="N", help="fixes everything that is drawn (default: drawn, shown)")


def _leco(arguments: Sequence[str], preserve: Sequence[str]) -> LecoConfig:
    options = parse_overrides(arguments)
    if preserve:
        options["preserve"] = list(preserve)
    findings = Findings(Path("--leco"))
    check_texts(options, ("leco",), findings)
    leco = read_model(LecoConfig, options, ("leco",), findings)
    if leco is None or findings.errors:
        raise ConfigError(findings.errors)
    return leco


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError
    return number
