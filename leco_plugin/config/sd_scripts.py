"""A command line of sd-scripts' LECO trainers, with its --config_file, as a job."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, create_model
from pydantic_core import PydanticKnownError

from leco_plugin.config import recognise
from leco_plugin.config.blame import check_texts, read_model
from leco_plugin.config.build import load_prompts
from leco_plugin.config.files import read_document, read_prompt_lines
from leco_plugin.config.findings import Findings, Key, describe, did_you_mean
from leco_plugin.config.kinds import Finite, Frozen, Whole
from leco_plugin.config.kohya_gui import settings_of_preset
from leco_plugin.config.schema import DORA, JobConfig, NetworkConfig, PromptPair
from leco_plugin.config.sd_flags import (
    ALGORITHMS,
    FLAGS,
    NETWORK_ARGS,
    NETWORK_ARGS_OFF,
    NETWORK_MODULES,
    REQUIRED,
    Kind,
    options,
)
from leco_plugin.errors import ConfigError, Problem, Where

Read = TypeVar("Read")
_SETTINGS = (recognise.Kind.SETTINGS, recognise.Kind.GUI_PRESET)
_PRECISIONS = {"no": ("fp32", "float32"), "fp16": ("fp16", "float16"), "bf16": ("bf16", "bfloat16")}
_ATTENTION = {"mem_eff_attn": "mem_eff", "sdpa": "sdpa", "xformers": "xformers"}
_ANOTHER = re.compile(r"\s+(?=\w+=)")
_WORDS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class FlagsJob:
    """The job that flags ask for, and what is to be said about them."""

    job: JobConfig
    notes: tuple[str, ...]
    warnings: tuple[Problem, ...]


def load_flags(arguments: Sequence[str], *, sdxl: bool) -> FlagsJob:
    """Read a command line; raises ConfigError with everything that is wrong in it and in the files that it names."""
    reader = _Reader(sdxl)
    reader.command_line(arguments)
    config_file = reader.given.pop("config_file", None)
    if isinstance(config_file, str):
        # as sd-scripts does, the ending may be left out
        recognise.expect(config_file, *_SETTINGS)
        reader.config_file(Path(config_file if config_file.endswith((".toml", ".json")) else f"{config_file}.toml"))
    reader.sort_out()
    return reader.job()


def _percent(value: object) -> object:
    return float(value[:-1]) / 100 if isinstance(value, str) and re.fullmatch(r"[\d.]+%", value) else value


def _switch(value: object) -> object:
    if not isinstance(value, bool):
        raise PydanticKnownError("bool_type")
    return value


def _texts(value: object) -> object:
    items = value if isinstance(value, (list, tuple)) else [value]
    return [str(item) if isinstance(item, (int, float)) else item for item in items]


_TYPES: Mapping[Kind, Any] = {
    "text": str,
    "int": Whole,
    "float": Finite,
    "switch": Annotated[bool, BeforeValidator(_switch)],
    "texts": Annotated[tuple[str, ...], BeforeValidator(_texts)],
    "steps": Annotated[Finite, BeforeValidator(_percent)],
}
_FIELDS: dict[str, Any] = {name: (_TYPES[flag.kind] | None, None) for name, flag in FLAGS.items()}
_Values: type[BaseModel] = create_model("_Values", __base__=Frozen, **_FIELDS)
"""All flags with the kinds of their values."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message[:1].lower() + message[1:], fix="see sd-scripts' documentation of its flags")


@dataclass
class _Reader:
    """Collects values by flag, and everything that is wrong with them."""

    sdxl: bool
    given: dict[str, object] = field(default_factory=dict)
    """Values as they are written."""
    values: dict[str, Any] = field(default_factory=dict)
    """Those that ask for something, read."""
    findings: Findings = field(default_factory=lambda: Findings(None))
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
            self.findings.errors.append(
                Problem(None, f"{name}: unknown flag" if name[:1] == "-" else f"{name!r}: no flag", fix)
            )
        self.given = vars(known)
        self.findings.places = {(name,): Where(None, None, f"--{name}") for name in FLAGS}

    def config_file(self, path: Path) -> None:
        """Take in a settings file, its sections flattened; what is on the command line already counts more."""
        document = read_document(path)
        recognise.recognise_tree(path, document.tree).expected(*_SETTINGS)
        findings = document.findings()
        tree = document.tree if isinstance(document.tree, dict) else {}
        if path.suffix == ".json":
            tree = settings_of_preset(tree, findings, sdxl=self.sdxl)
            findings.raise_errors()
        flat: dict[str, Key] = {}
        for key, value in _flattened(tree):
            name = str(key[-1])
            if name in flat:
                self.notes.append(f"{findings.where(key)} counts, not {findings.where(flat[name])}")
            if name not in self.given or name in flat:
                flat[name] = key
                self.given[name] = value
                self.findings.places[(name,)] = findings.where(key)
        self.findings.errors += findings.errors

    def sort_out(self) -> None:
        """Read the values that ask for something, refuse what LECO cannot follow, and note what changes nothing."""
        # GUIs write every field, and scripts pass on variables that may be empty: that asks for nothing
        asked = {name: raw for name, raw in self.given.items() if raw is not False and raw not in ("", None, [])}
        check_texts(asked, (), self.findings)
        read = read_model(_Values, asked, (), self.findings, strict=False)
        for name in read.model_fields_set if read else ():
            self._sort_out(name, getattr(read, name))
        for name in REQUIRED:
            if not self.given.get(name):
                self.findings.errors.append(Problem(None, f"--{name} is missing", f"add --{name}"))
        if "learning_rate" not in self.values:
            self.notes.append("--learning_rate is not given: 1e-4 is taken here, where sd-scripts takes 2e-6")
        if "wandb_run_name" in self.values and self.values.get("log_with") not in ("wandb", "all"):
            del self.values["wandb_run_name"]
            self.notes.append(f"{self._called('wandb_run_name')} changes nothing: log_with is not wandb")

    def _sort_out(self, name: str, value: object) -> None:
        flag = FLAGS[name]
        is_off = all(item in flag.off for item in value) if isinstance(value, tuple) else value in flag.off
        if is_off:
            return
        if flag.refused:
            self._wrong(name, flag.refused, "leave it out")
        elif flag.note:
            self.notes.append(f"{self._called(name)} changes nothing: {flag.note}")
        self.values[name] = value

    def job(self) -> FlagsJob:
        """The job; raises ConfigError with every error so far, and those of the schema and the prompt file."""
        settings: dict[str, object] = {"name": "missing", "model.name_or_path": "missing", "model.is_xl": self.sdxl}
        # as sd-scripts does; the run says so
        settings |= {"save.max_step_saves_to_keep": None, "save.overwrite": True}
        sources = {to: name for name, to in options() if name in self.values}
        settings |= {to: self.values[name] for to, name in sources.items()}
        for read in (self._precision, self._attention, self._optimizer, self._network, self._samples):
            for name, found in read().items():
                settings |= found
                sources |= dict.fromkeys(found, name)
        prompts = self._read_file("prompts_file", load_prompts)
        settings["leco.preserve"] = prompts.preserve if prompts else ()
        tree = _nested(settings)
        tree["pairs"] = prompts.pairs if prompts else (PromptPair(target="", positive=""),)
        self.findings.places |= {tuple(to.split(".")): self.findings.where((name,)) for to, name in sources.items()}
        job = read_model(JobConfig, tree, (), self.findings)
        if self.findings.errors or job is None:
            raise ConfigError(self.findings.errors)
        return FlagsJob(job, tuple(self.notes), prompts.warnings if prompts else ())

    def _read_file(self, name: str, read: Callable[[Path], Read]) -> Read | None:
        path = self.values.get(name)
        try:
            return None if path is None else read(Path(path))
        except ConfigError as error:
            self.findings.errors += error.problems
            return None

    def _samples(self) -> Found:
        """Pictures while training, as many steps and with as much guidance as sd-scripts has."""
        path, every = self.values.get("sample_prompts"), self.values.get("sample_every_n_steps")
        # 0 or less is none
        if path is None or (every is not None and every <= 0):
            return {}
        if not path.lower().endswith(".txt"):
            fix = "write one prompt a line into a .txt file"
            self._wrong("sample_prompts", f"must be a text file, not {path}", fix)
            return {}
        lines = self._read_file("sample_prompts", read_prompt_lines) or []
        prompts = [line for line in lines if not line.startswith("#")]
        chosen = {"sample.prompts": prompts, "sample.sample_steps": 30, "sample.guidance_scale": 7.5}
        more = {} if every is None else {"sample.sample_every": every}
        return {"sample_prompts": chosen, "sample_every_n_steps": more}

    def _precision(self) -> Found:
        mixed = self.values.get("mixed_precision", "no")
        if mixed not in _PRECISIONS:
            self._wrong("mixed_precision", f"must be no, fp16 or bf16, not {describe(mixed)}", "write bf16")
            return {}
        trained, saved = _PRECISIONS[mixed]
        chosen: dict[str, object] = {"train.dtype": trained}
        if "save_precision" not in self.values:
            chosen["save.dtype"] = saved
        for name, needed in (("full_fp16", "fp16"), ("full_bf16", "bf16")):
            if name in self.values and mixed != needed:
                self._wrong(name, f"needs mixed_precision {needed}, not {mixed}", f"add --mixed_precision={needed}")
            elif name in self.values:
                chosen["network.dtype"] = needed
        return {"mixed_precision": chosen}

    def _attention(self) -> Found:
        asked = [name for name in _ATTENTION if name in self.values]
        if asked[1:] == ["xformers"] and asked[0] == "sdpa":
            self._wrong(asked[0], f"contradicts {self._called(asked[1])}", "keep one of the two")
        elif len(asked) > 1:
            self.notes.append(f"{self._called(asked[1])} changes nothing beside mem_eff_attn, which counts")
        return {asked[0]: {"memory.attention": _ATTENTION[asked[0]]}} if asked else {}

    def _optimizer(self) -> Found:
        short = {"optimizer_type": "", "use_8bit_adam": "adamw8bit", "use_lion_optimizer": "lion"}
        asked = [name for name in short if name in self.values]
        if len(asked) > 1:
            self._wrong(asked[0], f"contradicts {self._called(asked[1])}", "keep one of the two")
        found: dict[str, dict[str, object]] = {
            name: {"train.optimizer": short[name] or self.values[name]} for name in asked
        }
        params = self._key_values("optimizer_args")
        if params:
            found["optimizer_args"] = {"train.optimizer_params": params}
        if asked and str(self.values[asked[0]]).lower() == "adafactor" and "relative_step" not in params:
            self.notes.append(
                "Adafactor follows --learning_rate here; sd-scripts does so with relative_step=False only"
            )
        return found

    def _network(self) -> Found:
        module = self.values.get("network_module", "networks.lora")
        arguments = {
            name: value for name, value in self._key_values("network_args").items() if not _is_off(name, value)
        }
        chosen: dict[str, object] = {"network.type": NETWORK_MODULES.get(module, "lora")}
        if "dora" in module.lower():
            self._wrong("network_module", DORA, "use networks.lora")
        elif module not in NETWORK_MODULES:
            guess = did_you_mean(module, NETWORK_MODULES)
            fix = f"did you mean {guess}?" if guess else f"there are {', '.join(NETWORK_MODULES)}"
            self._wrong("network_module", f"there is no {module}", fix)
        more: dict[str, object] = {}
        for name, value in arguments.items():
            if name in NETWORK_ARGS:
                kind, to = NETWORK_ARGS[name]
                more[to] = float(value) if kind == "float" and isinstance(value, int) else value
            elif name == "algo" and module == "lycoris.kohya" and value in ALGORITHMS:
                chosen["network.type"] = ALGORITHMS[str(value)]
            elif name in ("dora_wd", "use_dora") or (name == "algo" and value == "dora"):
                self._wrong("network_args", f"{name}={value}: {DORA}", "leave it out")
            else:
                guess = did_you_mean(name, NETWORK_ARGS)
                fix = f"did you mean {guess}?" if guess else f"there are {', '.join(NETWORK_ARGS)}"
                self._wrong("network_args", f"{name}={value} is not there", fix)
        # alpha 0 is alpha = rank in sd-scripts and LyCORIS
        rank = self.values.get("network_dim", NetworkConfig.model_fields["linear"].default)
        if self.values.get("network_alpha") == 0:
            chosen["network.linear_alpha"] = float(rank)
        if more.get("network.conv_alpha") == 0:
            more["network.conv_alpha"] = float(cast("int", more.get("network.conv", 1)))
        return {"network_module": chosen, "network_args": more}

    def _key_values(self, flag: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for word in (part for given in self.values.get(flag, ()) for part in _ANOTHER.split(given.strip())):
            name, equals, text = word.partition("=")
            if equals and name.strip():
                found[name.strip()] = literal(text.strip())
            elif word:
                self._wrong(flag, f"'{word}' sets nothing", "write key=value, such as weight_decay=0.01")
        return found

    def _called(self, name: str) -> str:
        return str(self.findings.where((name,)))

    def _wrong(self, name: str, message: str, fix: str) -> None:
        self.findings.error((name,), message, fix)


def _is_off(name: str, value: object) -> bool:
    """Whether an argument of a network asks for nothing, as where it is left out."""
    return (not value and name not in NETWORK_ARGS) or value in (None, "") or value == NETWORK_ARGS_OFF.get(name)


Found = dict[str, dict[str, object]]
"""Options of a job by the flag that they come from."""


def literal(text: str) -> object:
    """A number, a switch or a list; sd-scripts wants quotes around text, which shells take away."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _flattened(tree: Mapping[str, object]) -> Iterator[tuple[Key, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from (((name, key), inside) for key, inside in value.items())
        else:
            yield (name,), value


def _nested(settings: Mapping[str, object]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for dotted, value in settings.items():
        section, _, name = dotted.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return tree
