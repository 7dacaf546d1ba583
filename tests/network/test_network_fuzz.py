"""LoRA files with anything in them, read or refused in one sentence; LECO_FUZZ_LORA says how many."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import randn, randomize, small_unet
from peft import LoHaConfig, LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from leco_plugin.commands import main
from leco_plugin.config.schema import NetworkConfig
from leco_plugin.errors import LecoError
from leco_plugin.network.create import create_network
from leco_plugin.network.loaded import LoadedLora
from leco_plugin.network.lora_read import LoraFile

COUNT = int(os.environ.get("LECO_FUZZ_LORA", "60"))
LONGEST = 1000
"""Characters of a message; a path and shapes are in it, whole files are not."""
WORDS = (
    *("lora_up.weight", "lora_A.weight", "alpha", "diff", "diff_b", "dora_scale", "lokr_w1", "hada_w1_a", "oft_blocks"),
    *("w_norm", "set_weight", "lora_mid.weight", "", ".", "text_encoder", "lora_te_", "a1.weight", "lora_B.bias"),
)
VALUES: tuple[Any, ...] = (
    *(None, 0, -1, 1e400, float("nan"), "", "x", [], {}, [[]], True, 10**30, "9" * 5000, ["to_q"], {"to_q": 0}),
    *({"(": 1}, {"to_q": "x"}, {"(a+)+$": 2}, {"": 3}, "LOHA", "all-linear", {"to_q": float("inf")}),
)
Tensors = dict[str, Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tensors, dict[str, str], dict[str, Any] | None]]:
    """Good files of several kinds: tensors, metadata, and PEFT's config where there is one."""
    folder = tmp_path_factory.mktemp("good")
    found: list[tuple[Tensors, dict[str, str], dict[str, Any] | None]] = []
    for config in ({}, {"conv": 2}, {"type": "loha"}, {"type": "lokr", "conv": 2}):
        network = create_network(NetworkConfig(linear=2, **config), small_unet(), seed=0)
        randomize(network.parameters(), std=0.2)
        network.save(folder / "a.safetensors", "float16", {"ss_steps": "1", "ss_leco_pairs": "[]"})
        with safe_open(folder / "a.safetensors", "pt") as file:
            found.append((load_file(folder / "a.safetensors"), file.metadata(), None))
    for peft in (LoraConfig(r=2, target_modules=["to_q", "conv1"]), LoHaConfig(r=2, target_modules=["to_q"])):
        get_peft_model(small_unet(), peft).save_pretrained(folder)
        said = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        found.append((load_file(folder / "adapter_model.safetensors"), {"format": "pt"}, said))
    return found


def odd_tensor(chance: random.Random, old: Tensor) -> Any:
    """Something else in the place of a tensor."""
    shape = tuple(old.shape)
    other = tuple(chance.choice((0, 1, 2, 3, side, side + 1)) for side in shape)
    made: list[Callable[[], Any]] = [
        lambda: torch.zeros(other),
        lambda: torch.zeros(chance.choice(((), (0,), (1,), (2, 2), (8,) * 5, (1,) * 12, (1,) * 64))),
        lambda: old.float() * chance.choice((float("nan"), float("inf"), 1e38, 0.0, -1.0)),
        lambda: old.to(chance.choice((torch.int8, torch.int64, torch.bool, torch.float64, torch.bfloat16))),
        lambda: old.to(torch.float8_e4m3fn),
        lambda: old.flatten(),
        lambda: old.reshape(*shape, 1, 1),
        lambda: old.float().T if old.ndim == 2 else old[None],
        lambda: torch.zeros(2, 2, dtype=torch.complex64),
    ]
    return chance.choice(made)()


def unpicklable_shapes(chance: random.Random, old: Tensor) -> Any:
    """What only a pickle can hold."""
    one = torch.ones(1)
    return chance.choice(
        (one.expand(2**20, 2**20), torch.eye(3).to_sparse(), None, "text", 7, [one], {"a": one},
         torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), torch.empty(2, 2, device="meta"),
         nn.Parameter(one))
    )  # fmt: skip


def mutate(chance: random.Random, tensors: Tensors, *, pickled: bool) -> Tensors:
    """Up to three changes of keys or tensors."""
    changed = dict(tensors)
    for _ in range(chance.randint(1, 3)):
        key = chance.choice(sorted(changed) or ["nothing"])
        kind = chance.randrange(6)
        if kind == 0:
            changed.pop(key, None)
        elif kind == 1:
            changed[f"{key.rsplit('.', 2)[0]}.{chance.choice(WORDS)}"] = randn(2, 2)
        elif kind == 2:
            changed[key.replace(*chance.choice((("lora_", "x"), ("_", "."), (".", "_"), ("down", "up"))))] = randn(2)
        elif kind == 3 and pickled:
            changed[key] = unpicklable_shapes(chance, changed.get(key, randn(1)))
        elif isinstance(changed.get(key), Tensor) and changed[key].device.type == "cpu" and not changed[key].is_sparse:
            changed[key] = odd_tensor(chance, changed[key].dequantize() if changed[key].is_quantized else changed[key])
    return changed


def as_pickle(chance: random.Random, path: Path, tensors: Tensors) -> None:
    tree: Any = chance.choice((tensors, {"state_dict": tensors}, {"state_dict": None}, [tensors], None, {1: 2}))
    if chance.random() < 0.6:
        tree = tensors
    torch.save(tree, path, _use_new_zipfile_serialization=chance.random() < 0.7)
    if chance.random() < 0.1:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"]" * 2**25)
            archive.writestr("archive/version", b"3")


def as_safetensors(chance: random.Random, path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    said = dict(metadata)
    if chance.random() < 0.3:
        deep = chance.choice(("[" * 50_000, "{", '{"r": 1}', '{"unet.r": "x"}', json.dumps({"lora_alpha": 1e300})))
        said[chance.choice(("lora_adapter_metadata", "ss_leco_pairs", "sshs_model_hash"))] = deep
    plain = {key: tensor.contiguous().clone() for key, tensor in tensors.items() if isinstance(tensor, Tensor)}
    data = save(plain, metadata=said)
    if chance.random() < 0.15:
        header = {"a.lora_up.weight": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + b"\0" * 4
    path.write_bytes(data)


def break_bytes(chance: random.Random, path: Path) -> None:
    """Cut the file, or change some of its bytes."""
    data = bytearray(path.read_bytes())
    if chance.random() < 0.5:
        del data[chance.randrange(len(data)) :]
    for _ in range(chance.randint(1, 8)):
        if data:
            data[chance.randrange(min(len(data), 400))] = chance.randrange(256)
    path.write_bytes(bytes(data))


def write_case(chance: random.Random, folder: Path, good: Any) -> Path:
    tensors, metadata, config = good
    pickled = chance.random() < 0.35
    path = folder / (chance.choice(("a.pt", "a.ckpt", "a.bin")) if pickled else "adapter_model.safetensors")
    changed = mutate(chance, tensors, pickled=pickled) if chance.random() < 0.85 else tensors
    if pickled:
        as_pickle(chance, path, changed)
    else:
        as_safetensors(chance, path, changed, metadata)
    if config is not None:
        said = {**config, **({chance.choice(sorted(config)): chance.choice(VALUES)} if chance.random() < 0.7 else {})}
        (folder / "adapter_config.json").write_text(json.dumps(said), "utf-8")
    if chance.random() < 0.1:
        break_bytes(chance, path)
    return path


def refusal(path: Path, unet: nn.Module, kind: str | None) -> str:
    """What is said of a file in measuring, or as the start of a training; empty where it is taken."""
    try:
        use(path, unet, kind)
    except LecoError as error:
        return str(error) or "nothing is said"
    return ""


def use(path: Path, unet: nn.Module, kind: str | None) -> None:
    """Measure a file, or start a training from it."""
    if kind is not None:
        config = NetworkConfig(type=kind, network_weights=path, dim_from_weights=True)  # type: ignore[arg-type]
        unet, network = copy.deepcopy(unet), None
        network = create_network(config, unet, seed=0)
    else:
        network = LoadedLora(unet, LoraFile.read(path))
    try:
        with torch.no_grad(), network.multiplier(0.5):
            unet(randn(1, 4, 8, 8), torch.tensor(5), randn(1, 3, 8))
    finally:
        if isinstance(network, LoadedLora):
            network.detach()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(3600)
def test_any_file_is_read_or_refused_in_one_sentence(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By inspect, in measuring and as the start of a training; never a traceback, never invalid JSON."""
    unet, outcomes = small_unet(), {"read": 0, "refused": 0}
    for number in range(COUNT):
        chance = random.Random(number)
        folder = tmp_path / str(number)
        folder.mkdir()
        path = write_case(chance, folder, chance.choice(files))
        for kind in (None, chance.choice(("lora", "loha", "lokr"))):
            said = refusal(path, unet, kind)
            outcomes["refused" if said else "read"] += 1
            assert len(said) < LONGEST, (number, said)
        code = main.main(["inspect", str(path), "--json"])
        out, err = capsys.readouterr()
        assert (code, bool(err)) in ((0, False), (2, True)), number
        assert code == 2 or json.loads(out, parse_constant=pytest.fail)["layers"], number
    if "LECO_FUZZ_LORA" in os.environ:
        with capsys.disabled():
            sys.stdout.write(f"{outcomes}\n")
    assert min(outcomes.values()) > COUNT // 10


def test_a_pickle_that_inflates_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A zip of 32 KiB whose pickle has 32 MiB, of lists within lists; and the same without a zip."""
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"]" * 2**25)
    assert bomb.stat().st_size < 2**16
    plain = tmp_path / "plain.ckpt"
    magic = io.BytesIO()
    torch.save({}, magic, _use_new_zipfile_serialization=False)
    start = magic.getvalue()
    plain.write_bytes(start[: start.rindex(b"\x80\x02}")] + b"\x80\x02" + b"]" * (9 * 2**20))
    for path in (bomb, plain):
        with pytest.raises(LecoError, match="more than weights need"):
            LoraFile.read(path)
