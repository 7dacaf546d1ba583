"""What hosts' models have in common: `preserve: auto` finds in any of them what it finds in the built-in host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models import CPU
from torch import Tensor, nn

from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.engine import neighbours
from leco_plugin.engine.measure import Course
from leco_plugin.engine.neighbours import preserved
from leco_plugin.errors import ConfigError
from leco_plugin.families.load import load_model
from leco_plugin.hosts.ai_toolkit.model import HostDenoiser as AiToolkit
from leco_plugin.hosts.denoiser import HostedDenoiser, Texts
from leco_plugin.hosts.network import HostedNetwork
from leco_plugin.hosts.onetrainer.denoiser import HostDenoiser as OneTrainer

ERASE = PromptPair(target="a red shape", positive="a red shape", unconditional="a shape", resolution=(64, 64))
AUTO = LecoConfig(preserve=("a star", "auto"), max_denoising_steps=8)


class Hosted(HostedDenoiser):
    """The built-in model as if a host had loaded it; its LoRA spoils every prediction while it is on."""

    host, family, prediction_type, device = "a host", "sd1", "epsilon", CPU

    def __init__(self) -> None:
        super().__init__()
        self.own: Any = load_model("builtin:tiny", dtype="fp32", device=CPU)
        self.network = Spoiling()

    def encode(self, prompts: Sequence[str]) -> Texts:
        self._prompts = prompts
        self._texts = Texts([self.own.encode([prompt]).rows([0]) for prompt in prompts])
        return self._texts

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        shape: tuple[int, int, int] = self.own.latent_shape(height, width)
        return shape

    def _join(self, texts: Sequence[Any]) -> Any:
        raise AssertionError("whether rows mix is not known yet")

    def _predict(self, latents: Tensor, timesteps: Tensor, text: Any, sizes: Tensor) -> Tensor:
        predicted: Tensor = self.own.predict(latents, timesteps, text, sizes)
        return predicted + self.network.strength

    def _reader(self) -> tuple[Any, Any]:
        return self.own._source.tokenizer(0), self.own._source.text_encoder(0)

    def _schedule(self) -> Any:
        return self.own._scheduler

    def _sampled(self, steps: int, shape: tuple[int, int, int]) -> Tensor:
        raise AssertionError("this is no flow")


class Spoiling(HostedNetwork):
    """A LoRA that is on the model from the start, as hosts attach them."""

    takes_rows = False
    strength = 5.0

    def parameters(self) -> list[nn.Parameter]:
        return []

    @contextmanager
    def multiplier(self, value: float | Sequence[float]) -> Iterator[None]:
        assert isinstance(value, float)
        before, self.strength = self.strength, 5.0 * value
        yield
        self.strength = before


def test_what_lies_near_is_what_the_built_in_host_finds(monkeypatch):
    """With a LoRA on the model already, and row by row; the words that are named come first."""
    # row by row takes long
    monkeypatch.setattr(neighbours, "_SAMPLES", 1)
    monkeypatch.setattr(neighbours, "_STATES", 2)
    hosted = Hosted()
    found = hosted.with_neighbours(AUTO, [ERASE], "ddim", hosted.network)
    expected = preserved(AUTO, hosted.own, [ERASE], Course("ddim", 8, 3.0))
    assert found == expected
    assert found.preserve[:2] == ("a star", "an orange shape")
    assert not hosted.separate


def test_a_user_is_told_where_nothing_lies_near(monkeypatch):
    """Nothing would be kept, without a word."""
    hosted = Hosted()
    monkeypatch.setattr(hosted, "similar", lambda word, count: {})
    assert hosted.with_neighbours(AUTO, [ERASE], "ddim", hosted.network).preserve == ("a star",)
    assert [one for one in hosted.remarks if one.startswith("preserve: auto found no word near the concept")]


def test_without_auto_nothing_is_searched_for():
    """The text encoder is not asked."""
    leco = LecoConfig(preserve=("a star",))
    hosted = Hosted()
    assert hosted.with_neighbours(leco, [ERASE], "ddim", Spoiling()) == leco
    assert not hosted.remarks


def parts(tokenizer: object, encoder: object, suffix: str = "") -> Any:
    return SimpleNamespace(arch="sdxl", **{f"tokenizer{suffix}": tokenizer, f"text_encoder{suffix}": encoder})


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("host", ["ai-toolkit", "onetrainer"])
def test_the_first_text_encoder_is_asked(host, several):
    """Of several, in a list or by number; of a processor its tokenizer, as models have it that read pictures, too."""
    own = Hosted()
    tokenizer, encoder = own._reader()
    reader = SimpleNamespace(tokenizer=tokenizer) if several else tokenizer
    if host == "ai-toolkit":
        model = parts([reader, "T5"], [encoder, "T5"]) if several else parts(reader, encoder)
        denoiser: HostedDenoiser = AiToolkit(model, torch.cat)
    else:
        model = parts(reader, encoder, "_1" if several else "")
        denoiser = OneTrainer(None, model, None, (64, 64), lambda *_: None)
    assert denoiser.similar("red", 3) == own.own.similar("red", 3)


def test_a_text_encoder_without_words_is_refused():
    """In a sentence."""
    model = SimpleNamespace(tokenizer=None, text_encoder=None, arch="odd")
    with pytest.raises(ConfigError, match="the text encoder of odd does not tell which words are alike"):
        AiToolkit(model, torch.cat).similar("red", 3)
