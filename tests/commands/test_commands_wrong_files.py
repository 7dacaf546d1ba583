"""Every kind of file, given to every command that it is not for: one sentence with what it is and what it is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from leco_plugin.commands.main import main, train_from_flags
from leco_plugin.config.recognise import Found, Kind

JOB = "job: extension\nconfig: {{name: x, process: [{{type: {}, model: {{name_or_path: m}}, leco: {{target: a}}}}]}}\n"
TEXTS = {
    Kind.JOB: ("job.yaml", JOB.format("leco")),
    Kind.PROMPTS: ("p.toml", '[[prompts]]\ntarget = "a"\n'),
    Kind.PROMPT_LIST: ("list.yaml", "- target: a\n"),
    Kind.LECO_CONFIG: ("leco.yaml", "prompts_file: list.yaml\npretrained_model: {name_or_path: m}\n"),
    Kind.AI_TOOLKIT_JOB: ("slider.yaml", JOB.format("slider")),
    Kind.SETTINGS: ("settings.toml", "network_dim = 4\n"),
    Kind.GUI_PRESET: ("preset.json", '{"LoRA_type": "Standard"}'),
    Kind.ONETRAINER_PRESET: ("onetrainer.json", '{"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15"}'),
    Kind.OTHER_TOOL: ("workflow.json", '{"nodes": [], "links": []}'),
    Kind.GGUF: ("model.gguf", "GGUF"),
    Kind.RUN: ("x.run.jsonl", "{}\n"),
}
TENSORS = {
    Kind.LORA: ("lora.safetensors", "lora_unet_conv_in.lora_up.weight"),
    Kind.MODEL: ("model.safetensors", "conv_in.weight"),
    Kind.EMBEDDING: ("word.safetensors", "emb_params"),
}
FLAGS = ("--output_dir=out", "--output_name=x", "--learning_rate=1")
TINY = ("--pretrained_model_name_or_path=builtin:tiny", "--prompts_file=p.toml", *FLAGS)
Command = Callable[[str], int]
COMMANDS: dict[str, tuple[Command, set[Kind]]] = {
    "train": (lambda file: main(["train", file]), {Kind.JOB, Kind.PROMPTS}),
    "check": (lambda file: main(["check", file]), {Kind.JOB, Kind.PROMPTS}),
    "convert": (
        lambda file: main(["convert", file]),
        {Kind.JOB, Kind.PROMPTS, Kind.PROMPT_LIST, Kind.LECO_CONFIG, Kind.AI_TOOLKIT_JOB},
    ),
    "inspect": (lambda file: main(["inspect", file]), {Kind.LORA}),
    "evaluate": (lambda file: main(["evaluate", file]), {Kind.LORA}),
    "calibrate": (lambda file: main(["calibrate", file]), {Kind.LORA}),
    "preview": (lambda file: main(["preview", file]), {Kind.LORA, Kind.RUN}),
    "report": (lambda file: main(["report", file]), {Kind.LORA, Kind.RUN}),
    "in ai-toolkit": (lambda file: main(["host", "run", "ai-toolkit", file]), {Kind.JOB, Kind.AI_TOOLKIT_JOB}),
    "--config_file": (
        lambda file: train_from_flags(["--config_file", file], sdxl=False), {Kind.SETTINGS, Kind.GUI_PRESET},
    ),
    "--prompts_file": (
        lambda file: train_from_flags(
            ["--pretrained_model_name_or_path=m", "--prompts_file", file, *FLAGS], sdxl=False
        ),
        # a job says so in words of its own: its prompts_file is meant
        {Kind.PROMPTS, Kind.JOB},
    ),
    "a model": (
        lambda file: train_from_flags(
            ["--pretrained_model_name_or_path", file, "--prompts_file=p.toml", *FLAGS], sdxl=False
        ),
        {Kind.MODEL},
    ),
    "network_weights": (
        lambda file: train_from_flags(
            [*TINY, "--network_weights", file], sdxl=False
        ),
        {Kind.LORA},
    ),
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Kind, str]:
    """The name of a file or folder of each kind, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, text in TEXTS.values():
        Path(name).write_text(text, "utf-8")
    for name, key in TENSORS.values():
        save_file({key: numpy.zeros((1, 1), numpy.float32)}, name)
    for name in ("manifest.json", "state.json"):
        (tmp_path / "x-state").mkdir(exist_ok=True)
        (tmp_path / "x-state" / name).write_text(json.dumps({}), "utf-8")
    return {Kind.STATE: "x-state"} | {kind: name for kind, (name, _) in (TEXTS | TENSORS).items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_command_is_answered_with_what_the_file_is_for(
    files: dict[Kind, str], name: str, capsys: pytest.CaptureFixture[str]
):
    """All kinds but those that it takes, and what is not known; nothing is written."""
    command, taken = COMMANDS[name]
    before = sorted(Path().iterdir())
    for kind in set(Kind) - taken - {Kind.UNKNOWN}:
        assert command(files[kind]) == 2
        *notes, said = capsys.readouterr().err.strip().splitlines()
        assert said.startswith(f"{files[kind]}: this is "), kind
        assert said.endswith(Found(Path(files[kind]), kind).command)
        assert notes == []
    made = {path.name for path in Path().iterdir()} - {path.name for path in before}
    assert made <= {"out"}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_not_there_or_not_known_is_refused(tmp_path: Path, name: str, capsys, monkeypatch):
    """With the file's name, and no traceback."""
    monkeypatch.chdir(tmp_path)
    Path("p.toml").write_text('[[prompts]]\ntarget = "a"\n', "utf-8")
    Path("picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("empty.toml").write_text("")
    Path("folder").mkdir()
    command, _ = COMMANDS[name]
    for file in ("nowhere.yaml", "nowhere.safetensors", "picture.png", "empty.toml", "folder"):
        if name == "convert" and file == "empty.toml":
            continue
        assert command(file) != 0, file
        assert capsys.readouterr().err or name == "in ai-toolkit"


@pytest.mark.parametrize("flag", [["evaluate", "--untouched"], ["preview", "--prompt"], ["preview", "--negative"]])
@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\x00", "a\udc80"])
def test_a_prompt_on_the_command_line_is_text(flag: list[str], text: str, capsys: pytest.CaptureFixture[str]):
    """As in a file: no control character, no half of a character."""
    command, option = flag
    with pytest.raises(SystemExit) as ended:
        main([command, "x.safetensors", option, text])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "control character" in said or "half of a character" in said
    assert "\x1b" not in said
