"""What editors are told of job and prompt files: the shipped JSON Schemas, and two language tools that read them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from leco_plugin.commands.main import main
from leco_plugin.config.build import load_job, load_prompts
from leco_plugin.config.editors import (
    KINDS,
    SchemaKind,
    schema_file,
    schema_line,
    schema_text,
    with_schema_line,
    without_schema_line,
)
from leco_plugin.config.files import read_document
from leco_plugin.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "config_examples"
FILES = sorted(p for p in EXAMPLES.rglob("*.*") if p.suffix in (".toml", ".yaml") and p.stem != "ai_toolkit_slider")
JOB = """\
job: extension
config:
  name: one
  process:
    - type: leco
      model: {name_or_path: builtin:tiny}
      leco: {targets: [{target: red circle, positive: red}], PLACE}
      MORE
"""


def errors(kind: SchemaKind, tree: object) -> list[str]:
    schema = json.loads(schema_file(kind).read_text("utf-8"))
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(tree)]


def job(more: str = "device: auto", place: str = "preserve: auto") -> str:
    return JOB.replace("MORE", more).replace("PLACE", place)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_schema_is_the_one_of_the_options(kind: SchemaKind, capsys: pytest.CaptureFixture[str]):
    """`python -m leco_plugin.config.editors` writes it, and `leco schema` prints it."""
    assert schema_file(kind).read_text("utf-8") == schema_text(kind)
    jsonschema.Draft7Validator.check_schema(json.loads(schema_text(kind)))
    assert main(["schema", kind]) == 0
    assert capsys.readouterr().out == schema_text(kind)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_every_example_is_valid_and_names_its_schema(path: Path):
    """By a way that leads from its folder to the shipped file."""
    tree = read_document(path).tree
    kind: SchemaKind = "job" if "config" in tree else "prompts"
    assert not errors(kind, tree)
    way = path.read_text("utf-8").splitlines()[0].replace("=", " ").split()[-1]
    assert (path.parent / way).resolve() == schema_file(kind)


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("train: {steps: 1e3, dtype: bfloat16}", "preserve: auto"),
        ("train:", "preserve: [cat]"),
        ("network: {layers: full, only_if_contains: mid_block}", "preserve: auto"),
        ("network: {layers: full, only_if_contains: [mid_block], conv: null}", "preserve: auto"),
        ("save: {dtype: half, max_step_saves_to_keep: null}", "resolution: [64, 72]"),
        ("sample: {neg: false, prompts: [a cat --m 2, {prompt: a dog, neg: false}]}", "resolution: 64"),
        ("sample:\n        prompts:", "resolution: 64"),
        ("train: {optimizer_params: {weight_decay: 0.1, betas: [0.9, 0.99]}}", "resolution: 64"),
        ("train: {steps: '10'}", "resolution: 64"),
        ("train: {stepz: 10}", "resolution: 64"),
        ("network: {linear: 9000}", "resolution: 64"),
        ("network: {linear: 0}", "resolution: 64"),
        ("sample: {width: 63}", "resolution: 64"),
        ("save: {dtype: float64}", "resolution: 64"),
        ("device: auto", "resolution: 63"),
        ("device: auto", "resolution: null"),
        ("device: auto", "targetz: []"),
        ("devize: auto", "resolution: 64"),
        ("device: auto\n  nam: one", "resolution: 64"),
        ("device: auto\nmetta: {}", "resolution: 64"),
    ],
)
def test_the_schema_takes_what_the_reader_takes(more: str, place: str, tmp_path: Path):
    """Other spellings, empty sections and null where they count, and nothing else."""
    path = tmp_path / "job.yaml"
    path.write_text(job(more, place).replace("targets: [{", "prompts: [{"), "utf-8")
    tree = read_document(path).tree
    try:
        load_job(path)
        taken = True
    except ConfigError:
        taken = False
    assert (not errors("job", tree)) == taken, errors("job", tree)


@pytest.mark.parametrize(
    "text",
    [
        "[[prompts]]\ntarget = 'a'\npositive = 'b'\n",
        "[[prompts]]\ntarget_class = 'a'\npositive = 'b'\nnegative = 'c'\nresolutions = [[64, 64], 72]\n",
        "[slider]\nneutrals = ['']\n[[slider.targets]]\ntarget_class = 'a'\npositive = 'b'\n",
        "target = 'a'\npositive = 'b'\npreserve = 'auto'\n",
        "[[prompts]]\ntarget = 'a'\nnegative = 'b'\npositive = 'b'\n",
        "[[targets]]\ntarget_class = 'a'\npositive = 'b'\naction = 'erase'\n",
        "[[prompts]]\ntarget = 'a'\npositve = 'b'\n",
        "target = 'a'\npositve = 'b'\n",
        "[slider]\nneutralz = ['']\n[[slider.targets]]\ntarget_class = 'a'\npositive = 'b'\n",
        "[[prompts]]\ntarget = 'a'\nmultiplier = '1'\n",
        "[[prompts]]\ntarget = 'a'\npositive = 'b'\nbatch_size = 2000\n",
    ],
)
def test_the_prompt_schema_takes_what_the_reader_takes(text: str, tmp_path: Path):
    """Each kind of entry has its own keys."""
    path = tmp_path / "prompts.toml"
    path.write_text(text, "utf-8")
    tree: Any = read_document(path).tree
    try:
        load_prompts(path)
        taken = True
    except ConfigError:
        taken = False
    assert (not errors("prompts", tree)) == taken


def test_taplo_marks_a_typo_in_a_prompt_file(tmp_path: Path):
    """The first line alone leads it to the schema."""
    taplo = shutil.which("taplo")
    if taplo is None:
        pytest.skip("taplo is not on the PATH (npm install @taplo/cli)")
    path = tmp_path / "prompts.toml"
    for key, code in (("positive", 0), ("positve", 1)):
        path.write_text(f"{schema_line('prompts')}\n[[prompts]]\ntarget = 'a'\n{key} = 'b'\n", "utf-8")
        done = subprocess.run([taplo, "lint", path.name], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == bool(code), done.stderr
    assert "positve" in done.stderr


def test_the_yaml_language_server_completes_a_key_and_marks_a_typo(tmp_path: Path):
    """As an editor asks it."""
    server = shutil.which("yaml-language-server")
    if server is None:
        pytest.skip("yaml-language-server is not on the PATH (npm install yaml-language-server)")
    text = f"{schema_line('job')}\n{job('train: {stepz: 10, lr_sch: 1}')}"
    uri = (tmp_path / "job.yaml").as_uri()
    line = next(number for number, row in enumerate(text.splitlines()) if "stepz" in row)
    place = {"line": line, "character": text.splitlines()[line].index("lr_sch") + 6}
    with subprocess.Popen([server, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            ask(process, "initialize", {"processId": os.getpid(), "rootUri": None, "capabilities": {}}, number=1)
            answer(process, lambda said: said.get("id") == 1)
            ask(process, "initialized", {})
            document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
            ask(process, "textDocument/didOpen", {"textDocument": document})
            said = answer(process, lambda said: bool(said.get("params", {}).get("diagnostics")))
            assert any("stepz" in problem["message"] for problem in said["params"]["diagnostics"]), said
            asked = {"textDocument": {"uri": uri}, "position": place}
            ask(process, "textDocument/completion", asked, number=2)
            found = answer(process, lambda said: said.get("id") == 2 and "result" in said)["result"]
            assert "lr_scheduler" in {item["label"] for item in found["items"]}
        finally:
            process.kill()


def ask(process: subprocess.Popen[bytes], method: str, params: object, number: int | None = None) -> None:
    """Send one message, as the protocol frames it."""
    message: dict[str, object] = {"jsonrpc": "2.0", "method": method, "params": params}
    send(process, message if number is None else {**message, "id": number})


def send(process: subprocess.Popen[bytes], message: dict[str, object]) -> None:
    assert process.stdin is not None
    body = json.dumps(message).encode()
    process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    process.stdin.flush()


def answer(process: subprocess.Popen[bytes], wanted: Any) -> Any:
    """The first message that is wanted; what the server asks meanwhile is answered with nothing."""
    assert process.stdout is not None
    while True:
        length = 0
        while header := process.stdout.readline().strip():
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        assert length, "the server ended"
        said = json.loads(process.stdout.read(length))
        if "method" not in said or "id" not in said:
            if wanted(said):
                return said
        else:
            send(process, {"jsonrpc": "2.0", "id": said["id"], "result": None})


def test_written_files_are_valid_and_name_the_schema_once(tmp_path: Path):
    """A line that the prompt file had from another place is replaced."""
    prompts = tmp_path / "one.toml"
    prompts.write_text("#:schema elsewhere.json\n[[prompts]]\ntarget = 'red circle'\npositive = 'red'\n", "utf-8")
    options = ["--model", "builtin:tiny", "--set", "train.steps=1", "--set", f"training_folder={tmp_path.as_posix()}"]
    assert main(["train", str(prompts), *options, "--set", "save.overwrite=true"]) == 0
    job_file, prompt_file = tmp_path / "one" / "one.yaml", tmp_path / "one" / "one.toml"
    assert job_file.read_text("utf-8").startswith(schema_line("job") + "\n")
    written = prompt_file.read_text("utf-8")
    assert written.startswith(schema_line("prompts") + "\n")
    assert written.count("#:schema") == 1
    assert not errors("job", read_document(job_file).tree)
    assert not errors("prompts", read_document(prompt_file).tree)
    assert without_schema_line(with_schema_line("job", "a: 1\n")) == "a: 1\n"
