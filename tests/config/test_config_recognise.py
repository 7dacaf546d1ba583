"""What a file is, told by its keys or first bytes, and the one sentence that names the right command."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from leco_plugin.commands.main import main
from leco_plugin.config.build import load, load_job, load_prompts
from leco_plugin.config.recognise import Kind, expect, recognise
from leco_plugin.errors import ConfigError

JOB = "job: extension\nconfig:\n  name: x\n  process:\n  - type: {}\n"
LECO = "prompts_file: p.yaml\npretrained_model:\n  name_or_path: m\n"
TEXTS = [
    ("a.yaml", JOB.format("leco"), Kind.JOB),
    ("a.yaml", JOB.format("lecoo"), Kind.JOB),
    ("a.json", '{"job": "extension", "config": 1}', Kind.JOB),
    ("a.yaml", JOB.format("slider"), Kind.AI_TOOLKIT_JOB),
    ("a.yaml", JOB.format("diffusion_trainer"), Kind.AI_TOOLKIT_JOB),
    ("a.toml", '[[prompts]]\ntarget = "a"\n', Kind.PROMPTS),
    ("a.toml", 'target_class = "a"\npositive = "b"\n', Kind.PROMPTS),
    ("a.json", '{"targets": []}', Kind.PROMPTS),
    ("a.yaml", "- target: a\n  positive: b\n", Kind.PROMPT_LIST),
    ("a.yaml", "- a\n- b\n", Kind.UNKNOWN),
    ("a.yaml", LECO, Kind.LECO_CONFIG),
    ("a.yaml", "prompts_file: p.yaml\ntrain:\n", Kind.LECO_CONFIG),
    ("a.toml", 'pretrained_model_name_or_path = "m"\nprompts_file = "p"\n', Kind.SETTINGS),
    ("a.toml", '[any]\nnetwork_dim = 4\n[other]\nsdpa = true\n', Kind.SETTINGS),
    ("a.toml", 'prompts_file = "p.toml"\n', Kind.SETTINGS),
    ("a.json", '{"network_dim": 4, "num_processes": 1, "sdxl": false}', Kind.GUI_PRESET),
    ("a.json", '{"LoRA_type": "Standard", "train_data_dir": ""}', Kind.GUI_PRESET),
    ("a.json", '{"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15"}', Kind.ONETRAINER_PRESET),
    ("a.json", '{"nodes": [], "links": [], "version": 0.4}', Kind.OTHER_TOOL),
    ("a.json", '{"3": {"class_type": "KSampler", "inputs": {}}}', Kind.OTHER_TOOL),
    ("a.json", '{"model_family": "flux", "max_train_steps": 100}', Kind.OTHER_TOOL),
    ("a.toml", "[[datasets]]\nresolution = 512\n", Kind.OTHER_TOOL),
    ("a.yaml", "compute_environment: LOCAL_MACHINE\nnum_processes: 1\n", Kind.OTHER_TOOL),
    ("a.json", '{"peft_type": "LORA", "r": 4}', Kind.LORA),
    ("a.json", '{"_class_name": "StableDiffusionPipeline"}', Kind.MODEL),
    ("a.json", '{"architectures": ["CLIPTextModel"]}', Kind.MODEL),
    ("a.json", '{"preferred weight": 1.0, "notes": ""}', Kind.OTHER_TOOL),
    ("a.toml", 'prompts_file = "p.toml"\n[network]\nnetwork_dim = 4\n[train]\nmax_train_steps = 9\n', Kind.SETTINGS),
    ("a.run.jsonl", "{}", Kind.RUN),
    ("a.gguf", "GGUF", Kind.GGUF),
    ("a.jsonl", "{}", Kind.UNKNOWN),
    ("a.json", "{}", Kind.UNKNOWN),
    ("a.yaml", "a: [", Kind.UNKNOWN),
    ("a.txt", "a\nb\n", Kind.UNKNOWN),
    ("a.png", "no picture", Kind.UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "kind"), TEXTS)
def test_a_text_is_told_by_its_keys(tmp_path: Path, name: str, text: str, kind: Kind):
    """Not by what it is called; a typo in our own type of process does not make it another program's."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert recognise(tmp_path / name).kind is kind


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"], Kind.LORA),
        (["unet.mid_block.attentions.0.proj_in.lora_A.weight"], Kind.LORA),
        (["unet.down_blocks.0.attn.processor.to_q_lora.down.weight"], Kind.LORA),
        (["lycoris_unet_conv_in.hada_w1_a"], Kind.LORA),
        (["diffusion_model.x.lokr_w1"], Kind.LORA),
        (["diffusion_model.x.diff"], Kind.LORA),
        (["diffusion_model.x.a1.weight"], Kind.LORA),
        (["diffusion_model.x.w_norm", "diffusion_model.x.b_norm"], Kind.LORA),
        (["conv_in.weight", "conv_in.bias"], Kind.MODEL),
        (["conv_in.weight", "conv_in.bias", "snake.alpha"], Kind.MODEL),
        (["model.diffusion_model.out.0.weight"], Kind.MODEL),
        (["emb_params"], Kind.EMBEDDING),
        (["clip_g", "clip_l"], Kind.EMBEDDING),
    ],
)
def test_a_tensor_file_is_told_by_the_names_in_its_header(tmp_path: Path, names: list[str], kind: Kind):
    """Whatever trainer wrote it."""
    path = tmp_path / "a.safetensors"
    save_file({name: numpy.zeros(1, numpy.float32) for name in names}, path)
    assert recognise(path).kind is kind


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('run')",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.lora_down.weight", Kind.LORA),
        ("conv_in.weight", Kind.MODEL),
        ("model.diffusion_model.input_blocks.0.0.weight", Kind.MODEL),
        ("string_to_param", Kind.EMBEDDING),
    ],
)
def test_a_pickle_is_searched_and_never_run(tmp_path: Path, zipped: bool, name: str, kind: Kind):
    """Old and new checkpoints of torch."""
    path = tmp_path / "a.ckpt"
    data = pickle.dumps({name: Trap()})
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
    else:
        path.write_bytes(data)
    assert recognise(path).kind is kind


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        ("adapter_config.json", Kind.LORA),
        ("pytorch_lora_weights.safetensors", Kind.LORA),
        ("model_index.json", Kind.MODEL),
        ("unet", Kind.MODEL),
        ("x.run.jsonl", Kind.RUN),
        ("something", Kind.UNKNOWN),
    ],
)
def test_a_folder_is_told_by_what_is_in_it(tmp_path: Path, inside: str, kind: Kind):
    """A PEFT folder, a diffusers folder, any other."""
    (tmp_path / inside).mkdir()
    assert recognise(tmp_path).kind is kind


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.safetensors", b""),
        ("a.safetensors", b"\xff" * 100),
        ("a.safetensors", (2).to_bytes(8, "little") + b"[]"),
        ("a.safetensors", (100_000).to_bytes(8, "little") + b"[" * 100_000),
        ("a.ckpt", b"PK\x05\x06" + bytes(18)),
        ("a.pt", b""),
        ("a.yaml", b"\xff\xfe\x00"),
        ("a.json", b"[" * 100_000),
        ("missing", None),
    ],
)
def test_what_is_broken_or_missing_is_unknown(tmp_path: Path, name: str, data: bytes | None):
    """The command that reads it says what is wrong."""
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert recognise(tmp_path / name).kind is Kind.UNKNOWN


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("my leco.yaml", LECO, "this is a LECO config: leco convert '{}' --job"),
        ("a.yaml", JOB.format("slider"), "this is an ai-toolkit job: leco convert {} --job"),
        ("a.yaml", "- target: a\n", "this is a list of prompts as LECO and Concept Sliders have them: leco convert {}"),
        ("a.toml", "network_dim = 4\n", "this is a settings file of sd-scripts: python -m leco_plugin.train_leco"),
        ("a.json", '{"nodes": [], "links": []}', "this is a workflow of ComfyUI: nothing here reads it"),
    ],
)
@pytest.mark.parametrize("read", [load, load_job, load_prompts])
def test_the_wrong_command_is_answered_with_the_right_one(tmp_path: Path, name: str, text: str, sentence: str, read):
    """In one sentence, whichever of the readers was asked."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert len(caught.value.problems) == 1
    assert sentence.format(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [load, load_job, load_prompts])
def test_what_is_no_settings_file_is_refused_by_what_it_is(tmp_path: Path, read):
    """A LoRA and a model's folder, which people give to check and train."""
    save_file({"x.lora_up.weight": numpy.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "m" / "unet").mkdir(parents=True)
    for name, sentence in (
        ("a.safetensors", "this is a LoRA: leco inspect"),
        ("m", "this is a model: name it in a job"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            read(tmp_path / name)


def test_a_lora_command_says_what_a_settings_file_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """As check and train do."""
    (tmp_path / "a.yaml").write_text(LECO, encoding="utf-8")
    assert main(["inspect", str(tmp_path / "a.yaml")]) == 2
    assert "this is a LECO config: leco convert" in capsys.readouterr().err


def test_a_command_names_the_kinds_that_it_takes(tmp_path: Path):
    """What is of none of them is refused; what is not known is left to the command."""
    path = tmp_path / "a.safetensors"
    save_file({"x.lora_up.weight": numpy.zeros(1)}, path)
    assert expect(path, Kind.LORA).kind is Kind.LORA
    with pytest.raises(ConfigError, match=f"this is a LoRA: leco inspect {path}"):
        expect(path, Kind.JOB, Kind.PROMPTS)
    assert expect(tmp_path / "none", Kind.LORA).kind is Kind.UNKNOWN


def test_nothing_heavy_is_imported():
    """The answer comes at once."""
    code = (
        "import sys; import leco_plugin.config.recognise; assert not {'torch', 'numpy', 'safetensors'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_says_what_to_do():
    """But for what is not known."""
    from leco_plugin.config.recognise import Found

    for kind in Kind:
        assert bool(Found(Path("a b"), kind).command) is (kind is not Kind.UNKNOWN)
    assert json.dumps([kind.value for kind in Kind])
