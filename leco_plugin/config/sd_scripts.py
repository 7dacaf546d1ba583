"""A command line of sd-scripts' LECO trainers, with its --config_file, as a job."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from leco_plugin.config.blame import blame
from leco_plugin.config.build import LoadedPrompts, load_prompts
from leco_plugin.config.files import read_document, read_prompt_lines
from leco_plugin.config.findings import Findings, describe, did_you_mean
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.config.sd_flags import (
    ALGORITHMS,
    FLAGS,
    NETWORK_ARGS,
    NETWORK_MODULES,
    REQUIRED,
    Kind,
    options,
)
from leco_plugin.errors import ConfigError, Problem, Where

Value = bool | int | float | str | list[str]
_WANTED: Mapping[Kind, str] = {
    "text": "text",
    "int": "a whole number",
    "float": "a number",
    "switch": "true or false",
    "texts": "a list of texts",
    "steps": "a whole number of steps, a fraction below 1 or a percentage",
}
_PRECISIONS: Mapping[str, tuple[str, str]] = {
    "no": ("fp32", "float32"),
    "fp16": ("fp16", "float16"),
    "bf16": ("bf16", "bfloat16"),
}
_ATTENTION = {"sdpa": "sdpa", "xformers": "xformers", "mem_eff_attn": "mem_eff"}


@dataclass(frozen=True)
class FlagsJob:
    """The job that flags ask for, and what is to be said about them."""

    job: JobConfig
    notes: tuple[str, ...]
    warnings: tuple[Problem, ...]


def load_flags(arguments: Sequence[str], *, sdxl: bool) -> FlagsJob:
    """Read a command line; raises ConfigError with everything that is wrong in it and in the files that it names."""
    reader = _Reader()
    reader.command_line(arguments)
    config_file = reader.values.pop("config_file", None)
    if isinstance(config_file, str):
        reader.config_file(Path(config_file if config_file.endswith(".toml") else f"{config_file}.toml"))
    reader.sort_out()
    return reader.job(sdxl)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message[:1].lower() + message[1:], fix="see sd-scripts' documentation of its flags")


@dataclass
class _Reader:
    """Collects values by flag, and everything that is wrong with them."""

    values: dict[str, Value] = field(default_factory=dict)
    places: dict[str, Where] = field(default_factory=dict)
    """Where a value stands that is not on the command line."""
    errors: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def command_line(self, arguments: Sequence[str]) -> None:
        """Take in the flags of a command line."""
        parser = _Parser(prog="train_leco", add_help=False, allow_abbrev=False)
        for name, flag in FLAGS.items():
            if flag.kind == "switch":
                parser.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS)
            else:
                nargs = "*" if flag.kind == "texts" else None
                parser.add_argument(f"--{name}", nargs=nargs, default=argparse.SUPPRESS)
        known, unknown = parser.parse_known_args(list(arguments))
        for argument in unknown:
            name = argument.partition("=")[0]
            guess = did_you_mean(name.lstrip("-"), FLAGS) if name.startswith("--") else ""
            fix = f"did you mean --{guess}?" if guess else "remove it"
            self.errors.append(Problem(None, f"{name}: unknown flag" if name[:1] == "-" else f"{name!r}: no flag", fix))
        for name, raw in vars(known).items():
            # scripts pass on variables that may be empty, and sd-scripts takes that for nothing
            if raw != "":
                self._take(name, raw)

    def config_file(self, path: Path) -> None:
        """Take in a TOML file, its sections flattened; what is on the command line already counts more."""
        document = read_document(path)
        tree = document.tree if isinstance(document.tree, dict) else {}
        findings = document.findings()
        flat: dict[str, tuple[tuple[str, ...], object]] = {}
        for name, value in tree.items():
            inside = value.items() if isinstance(value, dict) else [(name, value)]
            above = (name,) if isinstance(value, dict) else ()
            for key, raw in inside:
                if key in flat:
                    self.notes.append(f"{findings.where((*above, key))} counts, not {findings.where(flat[key][0])}")
                flat[key] = ((*above, key), raw)
        for name, (place, raw) in flat.items():
            if name not in FLAGS:
                findings.unknown(place, FLAGS)
            # GUIs write every field, and an empty one or a switch that is off asks for nothing
            elif name not in self.values and raw is not False and raw not in ("", []):
                self.places[name] = findings.where(place)
                self._take(name, raw)
        self.errors += findings.errors

    def _take(self, name: str, raw: object) -> None:
        kind = FLAGS[name].kind
        value = _read(kind, raw)
        if value is None:
            self._wrong(name, f"must be {_WANTED[kind]}, not {describe(raw)}", "correct the value")
        else:
            self.values[name] = value

    def sort_out(self) -> None:
        """Refuse what LECO cannot follow, and note what changes nothing."""
        for name, value in list(self.values.items()):
            flag = FLAGS[name]
            if flag.refused and value != flag.harmless:
                self._wrong(name, flag.refused, "leave it out")
            elif flag.note:
                self.notes.append(f"{self._called(name)} changes nothing: {flag.note}")
        for name in REQUIRED:
            if not self.values.get(name) and not any(f"--{name}" in problem.message for problem in self.errors):
                self.errors.append(Problem(None, f"--{name} is missing", f"add --{name}"))

    def job(self, sdxl: bool) -> FlagsJob:
        """The job; raises ConfigError with every error so far, and those of the schema and the prompt file."""
        settings: dict[str, object] = {"model.is_xl": sdxl}
        # as sd-scripts does; the run says so
        settings |= {"save.max_step_saves_to_keep": None, "save.overwrite": True}
        settings |= {to: self.values[name] for name, to in options() if name in self.values}
        settings |= self._precision() | self._attention() | self._optimizer() | self._network() | self._samples()
        prompts = self._prompts()
        if prompts:
            settings["leco.preserve"] = prompts.preserve
        tree = _nested(settings)
        tree["pairs"] = prompts.pairs if prompts else (PromptPair(target="", positive=""),)
        job = None
        try:
            job = JobConfig.model_validate(tree)
        except ValidationError as error:
            self._blame(error)
        if self.errors or job is None:
            raise ConfigError(self.errors)
        return FlagsJob(job, tuple(self.notes), prompts.warnings if prompts else ())

    def _prompts(self) -> LoadedPrompts | None:
        path = self.values.get("prompts_file")
        if not isinstance(path, str):
            return None
        try:
            return load_prompts(path)
        except ConfigError as error:
            self.errors += error.problems
            return None

    def _samples(self) -> dict[str, object]:
        """Pictures while training, as many steps and with as much guidance as sd-scripts has."""
        path, every = self.values.get("sample_prompts"), self.values.get("sample_every_n_steps")
        # GUIs write 0 for none
        if not isinstance(path, str) or every == 0:
            return {}
        if not path.lower().endswith(".txt"):
            self._wrong(
                "sample_prompts", f"must be a text file, not {path}", "write one prompt a line into a .txt file"
            )
            return {}
        try:
            lines = [line for line in read_prompt_lines(Path(path)) if not line.startswith("#")]
        except ConfigError as error:
            self.errors += error.problems
            return {}
        chosen = {"sample.prompts": lines, "sample.sample_steps": 30, "sample.guidance_scale": 7.5}
        return chosen if every is None else {**chosen, "sample.sample_every": every}

    def _precision(self) -> dict[str, object]:
        mixed = self.values.get("mixed_precision", "no")
        if mixed not in _PRECISIONS:
            self._wrong("mixed_precision", f"must be no, fp16 or bf16, not {describe(mixed)}", "write bf16")
            return {}
        trained, saved = _PRECISIONS[str(mixed)]
        chosen: dict[str, object] = {"train.dtype": trained}
        if "save_precision" not in self.values:
            chosen["save.dtype"] = saved
        for name, needed in (("full_fp16", "fp16"), ("full_bf16", "bf16")):
            if name in self.values and mixed != needed:
                self._wrong(name, f"needs mixed_precision {needed}, not {mixed}", f"add --mixed_precision={needed}")
            elif name in self.values:
                chosen["network.dtype"] = needed
        return chosen

    def _attention(self) -> dict[str, object]:
        asked = [name for name in _ATTENTION if name in self.values]
        if len(asked) > 1:
            self._wrong(asked[0], f"contradicts {self._called(asked[1])}", "keep one of the two")
        return {"memory.attention": _ATTENTION[asked[0]]} if asked else {}

    def _optimizer(self) -> dict[str, object]:
        asked = {name: self.values[name] for name in ("optimizer_type", "use_8bit_adam", "use_lion_optimizer")
                 if name in self.values}  # fmt: skip
        if len(asked) > 1:
            self._wrong(next(iter(asked)), f"contradicts {self._called(list(asked)[1])}", "keep one of the two")
        short = {"use_8bit_adam": "adamw8bit", "use_lion_optimizer": "lion"}
        chosen: dict[str, object] = {}
        for name, value in asked.items():
            if value:
                chosen["train.optimizer"] = short.get(name, value)
        params = self._key_values("optimizer_args")
        if params:
            chosen["train.optimizer_params"] = params
        optimizer = str(chosen.get("train.optimizer", "")).lower()
        if optimizer == "adafactor" and "relative_step" not in params:
            self.notes.append(
                "Adafactor follows --learning_rate here; sd-scripts does so with relative_step=False only"
            )
        return chosen

    def _network(self) -> dict[str, object]:
        chosen: dict[str, object] = {}
        module = str(self.values.get("network_module", "networks.lora"))
        if module not in NETWORK_MODULES:
            guess = did_you_mean(module, NETWORK_MODULES)
            fix = f"did you mean {guess}?" if guess else f"there are {', '.join(NETWORK_MODULES)}"
            self._wrong("network_module", f"there is no {module}", fix)
        else:
            chosen["network.type"] = NETWORK_MODULES[module]
        for name, value in self._key_values("network_args").items():
            if name in NETWORK_ARGS:
                kind, to = NETWORK_ARGS[name]
                chosen[to] = float(value) if kind == "float" and isinstance(value, int) else value
            elif name == "algo" and module == "lycoris.kohya" and value in ALGORITHMS:
                chosen["network.type"] = ALGORITHMS[str(value)]
            elif name == "dora_wd" and module == "lycoris.kohya" and isinstance(value, bool):
                if value:
                    chosen["network.type"] = "dora"
            else:
                guess = did_you_mean(name, NETWORK_ARGS)
                fix = f"did you mean {guess}?" if guess else f"there are {', '.join(NETWORK_ARGS)}"
                self._wrong("network_args", f"{name}={value} is not there", fix)
        return chosen

    def _key_values(self, flag: str) -> dict[str, object]:
        found: dict[str, object] = {}
        words = self.values.get(flag, [])
        for word in words if isinstance(words, list) else []:
            name, equals, text = word.partition("=")
            if not equals or not name.strip():
                self._wrong(flag, f"'{word}' sets nothing", "write key=value, such as weight_decay=0.01")
                continue
            try:
                found[name.strip()] = ast.literal_eval(text.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                # sd-scripts wants quotes around text, which shells take away
                found[name.strip()] = text.strip()
        return found

    def _blame(self, error: ValidationError) -> None:
        flags = {to: name for name, to in options()}
        flags |= {
            "train.dtype": "mixed_precision",
            "train.optimizer": "optimizer_type",
            "network.type": "network_module",
            "sample.prompts": "sample_prompts",
            "sample.sample_every": "sample_every_n_steps",
        }
        flags |= {"train.optimizer_params": "optimizer_args"} | {to: "network_args" for _, to in NETWORK_ARGS.values()}
        for detail in error.errors(include_url=False):
            dotted = ".".join(str(part) for part in detail["loc"][:2])
            name = flags.get(dotted) or flags.get(str(detail["loc"][0])) if detail["loc"] else None
            if name in REQUIRED and name not in self.values:
                continue
            words = Findings(Path())
            blame(detail, (), words, JobConfig)
            for problem in words.errors:
                if name:
                    self._wrong(name, problem.message, problem.fix)
                else:
                    self.errors.append(Problem(None, problem.message, problem.fix))

    def _called(self, name: str) -> str:
        return str(self.places[name]) if name in self.places else f"--{name}"

    def _wrong(self, name: str, message: str, fix: str) -> None:
        where = self.places.get(name)
        self.errors.append(Problem(where, message if where else f"--{name}: {message}", fix))


def _read(kind: Kind, raw: object) -> Value | None:
    """A flag's value from a command line's text or a TOML file's value; None where it is of another kind."""
    if kind == "switch":
        return raw if isinstance(raw, bool) else None
    if kind == "texts":
        items = raw if isinstance(raw, list) else [raw]
        return [str(item) for item in items] if all(isinstance(item, (str, int, float)) for item in items) else None
    if kind == "text":
        return raw if isinstance(raw, str) else None
    if isinstance(raw, bool) or not isinstance(raw, (str, int, float)):
        return None
    try:
        return _number(kind, raw)
    except ValueError:
        return None


def _number(kind: Kind, raw: str | int | float) -> int | float:
    if kind == "int":
        return raw if isinstance(raw, int) else int(raw) if isinstance(raw, str) else _whole(raw)
    if kind == "steps" and isinstance(raw, str) and raw.endswith("%"):
        return float(raw[:-1]) / 100
    return float(raw)


def _whole(number: float) -> int:
    if not number.is_integer():
        raise ValueError
    return int(number)


def _nested(settings: Mapping[str, object]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for dotted, value in settings.items():
        section, _, name = dotted.rpartition(".")
        if section:
            below = tree.setdefault(section, {})
            assert isinstance(below, dict)
            below[name] = value
        else:
            tree[name] = value
    return tree
