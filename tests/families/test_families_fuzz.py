"""Model files and folders with anything in them, used or refused in one sentence; LECO_FUZZ_MODELS says how many."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import CPU, randn
from original_layout import original_tensors, small_configs
from safetensors.torch import load_file, save_file
from small_models import build_pipeline
from torch import Tensor

from leco_plugin.errors import LecoError
from leco_plugin.families import offline
from leco_plugin.families.load import load_model

COUNT = int(os.environ.get("LECO_FUZZ_MODELS", "10"))
LONGEST = 1500
"""Characters of a message, a path and the known families among them."""
FAMILIES = ("sd1", "sd2", "sdxl")
VALUES: tuple[Any, ...] = (None, 0, -1, 1e400, "", "x", [], {}, [[]], True, 10**9, [8, 16], "9" * 5000, 3.5)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, dict[str, Tensor]]]]:
    """A folder of each family, and its tensors by their original names; single files are taken to be as small."""
    found, configs, tokenizers = {}, {}, {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        pipeline = build_pipeline(family, folder / "scratch")
        pipeline.save_pretrained(folder / "model")
        found[family] = (folder / "model", original_tensors(pipeline, family))
        configs[family] = small_configs(pipeline, family)
        tokenizers["!" if family == "sd2" else "<|endoftext|>"] = pipeline.tokenizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline, "configs", configs.__getitem__)
        patch.setattr(offline, "clip_tokenizer", tokenizers.__getitem__)
        yield found


def use(path: Path) -> None:
    """Load a model and have it do all that a run with pictures has it do."""
    model: Any = load_model(str(path), dtype="fp32", device=CPU)
    table = model.encode(["a", "b"])
    shape = model.latent_shape(64, 64)
    with torch.no_grad():
        model.predict(randn(1, *shape), torch.tensor([500.0]), table.rows([0]), torch.full((1, 6), 64.0))
    model.sampler("ddim", 4, shape)
    model.decode(randn(1, *shape))


def refusal(path: Path) -> str:
    """What is said of a model; empty where it is taken."""
    try:
        use(path)
    except LecoError as error:
        return str(error) or "nothing is said"
    return ""


def break_json(chance: random.Random, folder: Path) -> None:
    """Change a value of a config, or the whole file."""
    path = chance.choice(sorted(path for path in folder.rglob("*.json") if path.is_file()))
    kind = chance.randrange(6)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.unlink()
        path.mkdir()
    elif kind == 2:
        path.write_bytes(chance.choice((b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 200_000, b'{"a": ' * 90_000)))
    else:
        try:
            tree = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError):
            return
        for _ in range(chance.randint(1, 2)):
            key = chance.choice(sorted(tree) if isinstance(tree, dict) and tree else ["x"])
            if isinstance(tree, dict):
                tree[key] = chance.choice(VALUES)
        path.write_text(json.dumps(tree), "utf-8")


def break_weights(chance: random.Random, folder: Path) -> None:
    """Cut, empty or change a file of tensors."""
    path = chance.choice(sorted(folder.rglob("*.safetensors")))
    kind = chance.randrange(5) if path.stat().st_size > 100 else 0
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])
    elif kind == 2:
        save_file({}, path)
    else:
        save_file(changed(chance, load_file(path)), path, {"format": "pt"})


def changed(chance: random.Random, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Some tensors without, renamed, or of another shape or kind."""
    result = dict(tensors)
    for _ in range(chance.randint(1, 3) if tensors else 0):
        key = chance.choice(sorted(result))
        made: list[Callable[[], Tensor | None]] = [
            lambda: None,
            lambda: torch.tensor(1.0),
            lambda: torch.zeros(3, 5),
            lambda: torch.zeros(0),
            lambda k=key: result[k][None].clone(),  # type: ignore[misc]
            lambda k=key: result[k].to(torch.int64),  # type: ignore[misc]
        ]
        tensor = chance.choice(made)()
        if tensor is None:
            result[f"{key}{chance.choice(('x', '.0', ''))}"] = result.pop(key)
        else:
            result[key] = tensor
    if result and chance.random() < 0.2:
        drop = chance.choice(sorted(result)).rsplit(".", 2)[0]
        result = {key: tensor for key, tensor in result.items() if not key.startswith(drop)}
    return result


def write_case(chance: random.Random, place: Path, folder: Path, tensors: dict[str, Tensor]) -> Path:
    if chance.random() < 0.5:
        target = place / "model"
        shutil.copytree(folder, target)
        for _ in range(chance.randint(1, 2)):
            chance.choice((break_json, break_json, break_weights))(chance, target)
        return target
    odd = changed(chance, tensors)
    if chance.random() < 0.5:
        save_file({key: tensor.contiguous() for key, tensor in odd.items()}, place / "model.safetensors")
        return place / "model.safetensors"
    tree: Any = chance.choice((odd, {"state_dict": odd}, {"state_dict": None}, {"state_dict": [odd]}, odd | {"a": 1}))
    torch.save(tree, place / "model.ckpt")
    return place / "model.ckpt"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(3600)
def test_any_model_is_used_or_refused_in_one_sentence(
    models: dict[str, tuple[Path, dict[str, Tensor]]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Single files and folders of three families; never a traceback."""
    outcomes, failures = {"used": 0, "refused": 0}, []
    for number in range(COUNT):
        chance = random.Random(number)
        place = tmp_path / str(number)
        place.mkdir()
        path = write_case(chance, place, *models[chance.choice(FAMILIES)])
        try:
            said = refusal(path)
        # whatever it is, the other cases are tried, too
        except Exception as error:  # noqa: BLE001
            failures.append(f"case {number}: {traceback.format_exception(error)[-2:]}")
            continue
        finally:
            shutil.rmtree(place)
        outcomes["refused" if said else "used"] += 1
        failures += [f"case {number} is long: {said}"] if len(said) > LONGEST else []
    if "LECO_FUZZ_MODELS" in os.environ:
        with capfd.disabled():
            sys.stdout.write(f"{outcomes}\n")
    assert failures == []
    assert outcomes["refused"] > COUNT // 4


def spoiled(models: Any, place: Path, part: str, change: Callable[[Path], None]) -> str:
    """What is said of an SD1 folder one of whose parts was changed."""
    shutil.copytree(models["sd1"][0], place / "model")
    change(place / "model" / part)
    return refusal(place / "model")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("unet/config.json", as_folder),
        ("model_index.json", as_folder),
        ("scheduler/scheduler_config.json", lambda path: path.write_text("[" * 100_000)),
        ("tokenizer/tokenizer_config.json", lambda path: path.write_text("{")),
        ("tokenizer/tokenizer.json", lambda path: path.write_text("[]")),
        ("vae/diffusion_pytorch_model.safetensors", Path.unlink),
        ("vae/diffusion_pytorch_model.safetensors", lambda path: save_file({}, path)),
        ("unet/diffusion_pytorch_model.safetensors", lambda path: save_file({}, path)),
        ("text_encoder/model.safetensors", lambda path: save_file({}, path, {"format": "pt"})),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", "changed"),
)
def test_a_folder_with_a_spoiled_part_is_refused_with_the_part(
    models: Any, part: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    """The message names the part's folder."""
    said = spoiled(models, tmp_path, part, change)
    assert str(tmp_path / "model" / part.rpartition("/")[0]) in said


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("sd1", lambda t: {**t, "model.diffusion_model.input_blocks.0.0.weight": torch.tensor(1.0)}),
        ("sdxl", lambda t: {k: v for k, v in t.items() if "label_emb" not in k}),
        ("sdxl", lambda t: {k: v for k, v in t.items() if "middle_block" not in k}),
        ("sdxl", lambda t: {k: v for k, v in t.items() if "embedders.1" not in k}),
        ("sd2", lambda t: {k.replace("resblocks.0", "resblocks.x"): v for k, v in t.items()}),
    ],
    ids=["scalar input convolution", "no label_emb", "no middle", "one encoder", "an encoder's names"],
)
def test_a_file_that_is_not_whole_is_refused(models: Any, family: str, change: Any, tmp_path: Path) -> None:
    """By its name."""
    path = tmp_path / "model.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in change(models[family][1]).items()}, path)
    assert str(path) in refusal(path)


@pytest.mark.parametrize("tree", [{"state_dict": None}, {"state_dict": 3}, None, [1], {"a": "b"}], ids=str)
def test_a_checkpoint_without_tensors_is_refused(tree: Any, tmp_path: Path) -> None:
    """By its name."""
    torch.save(tree, tmp_path / "model.ckpt")
    assert f"{tmp_path / 'model.ckpt'} holds nothing known" in refusal(tmp_path / "model.ckpt")
