"""Broken settings: whatever a file, a flag or an override holds ends as settings or as one clear refusal.

LECO_FUZZ_SETTINGS says how many files are made; each is made from its number alone.
"""

from __future__ import annotations

import os
import random
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from leco_converters.command import main as convert

from leco_plugin.config.build import load, load_job, parse_overrides
from leco_plugin.config.recognise import recognise
from leco_plugin.config.sd_scripts import load_flags
from leco_plugin.errors import ConfigError

COUNT = int(os.environ.get("LECO_FUZZ_SETTINGS", "300"))
EXAMPLES = Path(__file__).parents[2] / "config_examples"
SOURCES = [path for path in sorted(EXAMPLES.rglob("*")) if path.suffix in (".yaml", ".toml", ".json")]
JOB = """\
job: extension
config:
  name: size
  process:
    - type: leco
      training_folder: out
      model: {name_or_path: builtin:tiny}
      network: {type: lora, linear: 4, linear_alpha: 1.0, only_if_contains: [mid]}
      train: {lr: 1e-4, steps: 100, optimizer: adamw, optimizer_params: {betas: [0.9, 0.99]}, lr_warmup_steps: 0.1}
      sample: {prompts: ["a cat --m 2 --w 64"], multipliers: [1, 2]}
      leco:
        preserve: [a dog]
        prompts: [{target: red, resolution: [64, 64]}, {target_class: a, positive: b, resolutions: [[64, 64], 128]}]
meta: {name: "[name]", version: 1.5}
"""
SETTINGS = """\
[a]
pretrained_model_name_or_path = "builtin:tiny"
prompts_file = "prompts.toml"
output_dir = "out"
output_name = "x"
network_dim = 4
lr_warmup_steps = "5%"
optimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]
network_args = ["conv_dim=4"]
sdpa = true
"""
NASTY = [
    "null", "", "~", "true", "1e400", "-1", "0", "1" + "0" * 400, "9" * 5000, ".nan", "nan", "inf", "-.inf", "1.5",
    '""', '" "', '"\\u0000"', '"\\ud800"', '"\\U00110000"', "[]", "{}", "[[]]", "[1, [2]]", "{a: 1}", "{a = 1}",
    "[" * 60 + "]" * 60, "[" * 2000, "{a: " * 60, "2020-01-01", "!!python/object/apply:os.system [ls]", "&a [*a]",
    "*a", "<<: *a", "'", '"', '"""', "\t", "\x00", "\x1b", "\ufeff", "\x85", "\u2028", "猫", "100000000", "-0.0",
    "1:30", "0x" + "f" * 300, "dora", "full", "a-step00000010", "../../x", "con", "a" * 5000, "--m", "%", "=", "\ud7ff",
]  # fmt: skip


def mutated(chance: random.Random) -> tuple[str, bytes]:
    """The ending and the content of a file that was once right."""
    source = chance.choice([*SOURCES, None, None, None])
    if source is None:
        ending, text = chance.choice([(".yaml", JOB), (".toml", SETTINGS), (".json", "{}")])
    else:
        ending, text = source.suffix, source.read_text("utf-8")
    for _ in range(chance.randint(1, 4)):
        text = chance.choice(CHANGES)(text, chance)
    data = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.1 and data:
        at = chance.randrange(len(data))
        data = data[:at] + bytes([chance.randrange(256)]) + data[at + chance.randint(0, 3) :]
    return (ending if chance.random() < 0.9 else chance.choice([".yaml", ".toml", ".json"])), data


def replace_value(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    at = chance.randrange(len(lines))
    for sign in (": ", " = ", "- "):
        head, found, _ = lines[at].partition(sign)
        if found:
            lines[at] = head + sign + chance.choice(NASTY)
            break
    return "\n".join(lines)


def insert(text: str, chance: random.Random) -> str:
    at = chance.randint(0, len(text))
    return text[:at] + chance.choice(NASTY) + text[at:]


def move_line(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    line = lines[chance.randrange(len(lines))]
    lines.insert(chance.randrange(len(lines)), "  " * chance.randint(0, 3) + line.lstrip())
    return "\n".join(lines)


def drop(text: str, chance: random.Random) -> str:
    begin = chance.randint(0, len(text))
    return text[:begin] + text[begin + chance.randint(0, 40) :]


CHANGES: list[Callable[[str, random.Random], str]] = [replace_value, replace_value, insert, move_line, drop]


@pytest.mark.parametrize("start", range(0, COUNT, 100))
def test_a_broken_file_ends_in_settings_or_in_a_refusal(tmp_path: Path, monkeypatch, capsys, start: int):
    """Read as a job, as prompts, as settings of sd-scripts and by the converter; never another exception."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.toml").write_text('[[prompts]]\ntarget = "red"\n', "utf-8")
    read = 0
    for number in range(start, min(start + 100, COUNT)):
        chance = random.Random(number)
        ending, data = mutated(chance)
        path = Path(f"x{ending}")
        path.write_bytes(data)
        try:
            recognise(path)
            read += reads(load, path) + reads(load_job, path)
            reads(load_flags, ["--config_file", str(path)], sdxl=False)
            assert convert([str(path), "out.yaml", "--force"]) in (0, 1, 2)
            capsys.readouterr()
        except Exception as error:
            raise AssertionError(f"file {number}: {data[:2000]!r}") from error
    assert 0 < read < 200


def reads(read: Callable[..., object], *given: object, **more: object) -> bool:
    """Whether it gives settings; a refusal has its words."""
    try:
        read(*given, **more)
        return True
    except ConfigError as error:
        for problem in error.problems:
            assert problem.message
            assert "pydantic" not in str(problem)
        return False


@pytest.mark.parametrize("start", range(0, COUNT, 100))
def test_broken_words_on_a_command_line_end_in_settings_or_in_a_refusal(tmp_path: Path, monkeypatch, start: int):
    """Overrides of a job, and sd-scripts' flags."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.toml").write_text('[[prompts]]\ntarget = "red"\n', "utf-8")
    Path("job.yaml").write_text(JOB, "utf-8")
    names = ["name", "train", "train.steps", "train.lr", "network.linear", "leco", "leco.prompts", "a.b.c", "", "model"]
    words = shlex.split("--network_dim=8 --optimizer_args a=1 --sample_prompts=x.txt --seed=1 --learning_rate=1e-4")
    read = 0
    for number in range(start, min(start + 100, COUNT)):
        chance = random.Random(number)
        value, name = chance.choice(NASTY), chance.choice(names)
        flags = [chance.choice(words).partition("=")[0] + chance.choice(["=", " "]) + value, *chance.sample(words, 2)]
        try:
            read += reads(lambda override: load_job("job.yaml", parse_overrides([override])), f"{name}={value}")
            given = ["--prompts_file=prompts.toml", "--output_dir=o", "--pretrained_model_name_or_path=m", *flags]
            reads(load_flags, [*given, "--output_name=x"], sdxl=False)
        except Exception as error:
            raise AssertionError(f"case {number}: {name}={value[:100]!r} {flags!a}") from error
    assert read < 100
