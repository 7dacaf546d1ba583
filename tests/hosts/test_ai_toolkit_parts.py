"""LECO's side of ai-toolkit against a stand-in that holds to what the host documents, and refuses all else."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models import CPU, SD_SCHEDULE, pair, seeded
from torch import Tensor, nn

from leco_plugin.config.schema import LecoConfig
from leco_plugin.engine.assemble import Training, assemble
from leco_plugin.engine.row_check import rows_differ
from leco_plugin.engine.step import StepSettings
from leco_plugin.errors import ModelError, NetworkError
from leco_plugin.families.samplers import FlowSampler, make_sampler
from leco_plugin.hosts.ai_toolkit.model import HostDenoiser
from leco_plugin.hosts.ai_toolkit.network import HostNetwork, takes_rows

SD = {**SD_SCHEDULE, "steps_offset": 0, "timestep_spacing": "leading"}
"""The host's schedule for Stable Diffusion."""


class Embeds:
    """The host's PromptEmbeds, of prompts that are numbers: ``to`` works in place."""

    def __init__(self, values: Tensor) -> None:
        self.text_embeds = values

    def to(self, *where: Any, **options: Any) -> Embeds:
        self.text_embeds = self.text_embeds.to(*where, **options)
        return self

    def detach(self) -> Embeds:
        return Embeds(self.text_embeds.detach())


def join(embeds: list[Embeds]) -> Embeds:
    return Embeds(torch.cat([one.text_embeds for one in embeds]))


class StrictNetwork(nn.Module):
    """The host's network: a number or a list as multiplier, inactive outside of a block, one weight."""

    def __init__(self, lora: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(lora))
        self.frozen = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.is_active = False
        self.dropout: float | None = None
        self._multiplier: float | list[float] = 1.0

    @property
    def multiplier(self) -> float | list[float]:
        return self._multiplier

    @multiplier.setter
    def multiplier(self, value: float | list[float]) -> None:
        assert type(value) in (float, list), "the host takes no tensor and no tuple"
        self._multiplier = value

    def effect(self, rows: int) -> Tensor:
        """What the LoRA adds to every row."""
        if not self.is_active:
            return torch.zeros(rows)
        values = self._multiplier if isinstance(self._multiplier, list) else [self._multiplier] * rows
        assert len(values) == rows, "the host spreads a shorter list over the wrong rows"
        return self.weight * torch.tensor(values)


FLUX = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}
"""The schedule of FLUX.1, which depends on the size of the picture."""


class StrictSd:
    """The host's model: predicts the prompt's value plus the LoRA's effect, and says what it was asked."""

    is_xl = is_flux = False
    arch = "sd1"
    prediction_type = "epsilon"
    device_torch, torch_dtype = CPU, torch.float32

    def __init__(self, lora: float = 0.0, *, flow: bool = False) -> None:
        self.network = StrictNetwork(lora)
        self.is_flow_matching = flow
        self.noise_scheduler: Any = SimpleNamespace(config=FLUX if flow else SD)
        self.unet = nn.Identity()
        self.asked: list[dict[str, Any]] = []

    def text_encoder_to(self, device: Any) -> None:
        self.encoder_at = device

    def encode_prompt(self, prompt: list[str]) -> Embeds:
        assert self.encoder_at == CPU, "encoders are moved to where the host computes"
        value = float(prompt[0] or 0)
        prompt[0] = "edited in place, as some pipelines do"
        return Embeds(torch.tensor([value]))

    def get_bucket_divisibility(self) -> int:
        return 16

    def encode_images(self, images: list[Tensor]) -> Tensor:
        assert images[0].shape[1] % 16 == 0
        return torch.zeros(len(images), 4, images[0].shape[1] // 8, images[0].shape[2] // 8)

    def get_latent_noise_from_latents(self, latents: Tensor) -> Tensor:
        return torch.randn_like(latents)

    def predict_noise(
        self, latents: Tensor, conditional_embeddings: Embeds, timestep: Tensor, **options: Any
    ) -> Tensor:
        rows = len(latents)
        assert isinstance(timestep, Tensor)
        assert timestep.shape == (rows,)
        assert len(conditional_embeddings.text_embeds) == rows, "twice as many would mean guidance"
        assert options["is_input_scaled"], "the host's scheduler is at no step of the walk"
        assert options["batch"].control_tensor is None, "some models look into the batch"
        network = self.network
        self.asked.append({"rows": rows, "active": network.is_active, "multiplier": network.multiplier, **options})
        values = conditional_embeddings.text_embeds + network.effect(rows)
        if values.requires_grad:
            values.register_hook(lambda gradient: self._at_backward(network.is_active, network.multiplier))
        return values[:, None, None, None].expand(latents.shape)

    def _at_backward(self, active: bool, multiplier: object) -> None:
        self.backward = (active, multiplier)


def denoiser_of(sd: StrictSd) -> HostDenoiser:
    return HostDenoiser(sd, join)


def training(sd: StrictSd, *pairs: Any, rows: bool = True, steps: int = 4, **leco: Any) -> Training:
    denoiser = denoiser_of(sd)
    config = LecoConfig(max_denoising_steps=steps, **leco)
    network = HostNetwork(sd.network, takes_rows=rows)
    return assemble(
        pairs, config, StepSettings(), denoiser=denoiser, network=network, sampler="ddim", generator=seeded(0)
    )


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("rows", [False, True])
def test_a_step_in_the_host_is_lecos_own(rows: bool, flow: bool) -> None:
    """Goal 4 - (5 - 2) of the base model; the student says 2 plus the LoRA's 10 at multiplier -0.5."""
    sd = StrictSd(lora=10.0, flow=flow)
    asked = pair(target=2, positive=5, unconditional=2, neutral=4, multiplier=-0.5)
    made = training(sd, asked, rows=rows, walk="pool", pool_size=1)
    result = made.step.run(made.walks, torch.autograd.backward)
    assert result.loss.item() == (2 - 5 - (4 - (5 - 2))) ** 2
    assert sd.network.weight.grad is not None
    # 2 x (student - goal) x multiplier
    assert sd.network.weight.grad.item() == 2 * (2 - 5 - 1) * -0.5


def test_the_lora_is_on_through_backward_and_off_afterwards() -> None:
    """Gradient checkpointing computes again with what is set then; the host's own work finds what it left."""
    sd = StrictSd(lora=1.0)
    made = training(sd, pair(multiplier=2.0))
    sd.network.multiplier = 0.25
    made.step.run(made.walks, torch.autograd.backward)
    assert sd.backward == (True, 2.0)
    assert (sd.network.is_active, sd.network.multiplier) == (False, 0.25)


def test_rows_have_their_own_strengths_only_where_the_network_can() -> None:
    """One number for each row of a call, or calls with one number each."""
    for rows, kinds in ((True, {float, list}), (False, {float})):
        sd = StrictSd(lora=1.0)
        made = training(sd, pair(target=2, positive=5, neutral=4), rows=rows, walk="pool", pool_size=1)
        made.step.run(made.walks, torch.autograd.backward)
        assert {type(call["multiplier"]) for call in sd.asked} == kinds
        assert all(call["active"] for call in sd.asked)


def test_a_block_restores_what_it_found() -> None:
    """Nested, and where it fails: the host's own blocks always end inactive."""
    network = StrictNetwork(1.0)
    wrapped = HostNetwork(network, takes_rows=True)

    def fail() -> None:
        with wrapped.multiplier((1.0, 2.0)):
            assert network.multiplier == [1.0, 2.0]
            raise RuntimeError

    with wrapped.multiplier(0.5):
        with pytest.raises(RuntimeError):
            fail()
        assert (network.is_active, network.multiplier) == (True, 0.5)
    assert (network.is_active, network.multiplier) == (False, 1.0)


def test_dropout_is_for_what_is_trained_alone() -> None:
    """The walk and the teacher see the LoRA as it is."""
    network = StrictNetwork(1.0)
    network.dropout = 0.5
    wrapped = HostNetwork(network, takes_rows=True)
    with torch.no_grad(), wrapped.multiplier(1.0):
        assert not network.training
    with wrapped.multiplier(1.0):
        assert network.training


def test_the_network_trains_what_the_host_would() -> None:
    """Frozen parameters are left out; the host alone writes its files."""
    network = StrictNetwork(1.0)
    wrapped = HostNetwork(network, takes_rows=True)
    assert wrapped.parameters() == [network.weight]
    with pytest.raises(NetworkError, match="the host writes the LoRA itself"):
        wrapped.save(Path("a.safetensors"), "float16", {})


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [("lora", {}, True), ("LoRA", {}, True), ("dora", {}, False), ("lokr", {}, False),
     ("lora", {"all_layers": True}, False), ("lora", {"network_kwargs": {"full_if_contains": ["proj"]}}, False)],
)  # fmt: skip
def test_networks_that_average_strengths_get_one_at_a_time(kind: str, more: dict[str, Any], expected: bool) -> None:
    """The host takes the mean of a list for DoRA, LoKr and whole layers."""
    config = SimpleNamespace(**{"type": kind, "all_layers": False, "network_kwargs": {}, **more})
    assert takes_rows(config, arch_takes_rows=True) is expected
    assert takes_rows(config, arch_takes_rows=False) is False


def test_latents_are_in_proportion_to_the_hosts() -> None:
    """One picture is encoded, whatever sizes there are; sizes that the host's model cannot take are refused."""
    denoiser = denoiser_of(StrictSd())
    assert denoiser.latent_shape(512, 768) == (4, 64, 96)
    assert denoiser.latent_shape(64, 1024) == (4, 8, 128)
    for size in ((72, 64), (64, 72)):
        with pytest.raises(ModelError, match=f"{size[0]} x {size[1]} pixels is not a multiple of 16"):
            denoiser.latent_shape(*size)


def test_only_sdxl_is_told_sizes() -> None:
    """As time ids, in our order, which is the host's."""
    for is_xl in (False, True):
        sd = StrictSd()
        sd.is_xl = is_xl
        made = training(sd, pair(), walk="fresh")
        made.step.run(made.walks, torch.autograd.backward)
        ids = sd.asked[-1].get("add_time_ids")
        assert (ids is None) is not is_xl
        assert ids is None or ids.tolist() == [[64, 64, 0, 0, 64, 64]]


def test_walks_of_diffusion_models_are_those_of_the_built_in_host() -> None:
    """The host leaves out the offset of Stable Diffusion's schedule, which its own models were made with."""
    ours = denoiser_of(StrictSd()).sampler("ddim", 10, (4, 8, 8))
    built_in = make_sampler("ddim", {**SD, "steps_offset": 1}, 10, CPU)
    assert ours.timesteps.tolist() == built_in.timesteps.tolist()


def test_a_flow_walk_along_a_true_velocity_ends_at_the_data() -> None:
    """x = (1 - s) data + s noise moves by noise - data; after the last step s is 0."""
    sampler = FlowSampler(torch.tensor([1.0, 0.7, 0.2, 0.0]), CPU)
    assert sampler.timesteps.tolist() == pytest.approx([1000, 700, 200])
    data, noise = torch.randn(1, 4, 2, 2, generator=seeded(1)), torch.randn(1, 4, 2, 2, generator=seeded(2))
    latents = noise
    for index in range(3):
        latents = sampler.step(noise - data, index, sampler.model_input(latents, index), seeded(0))
    torch.testing.assert_close(latents, data)


def encoded(sd: StrictSd, *prompts: str) -> HostDenoiser:
    denoiser = denoiser_of(sd)
    denoiser.encode(prompts or ("1", "2"))
    return denoiser


def test_a_flow_model_without_sampling_of_its_own_has_its_pipelines_schedule() -> None:
    """sigma = s e^mu / (1 + s (e^mu - 1)) with mu on the line from 0.5 at 256 tokens to 1.15 at 4096, from 1 to 1/N."""
    for side, mu in ((64, 0.5 + 0.65 * (1024 - 256) / 3840), (128, 1.15)):
        even, shift = torch.tensor([1.0, 0.75, 0.5, 0.25]), math.exp(mu)
        sampler = encoded(StrictSd(flow=True)).sampler("ddpm", 4, (4, side, side))
        assert sampler.timesteps.tolist() == pytest.approx((1000 * even * shift / (1 + (shift - 1) * even)).tolist())


class Drawn(StrictSd):
    """A flow model that the host draws with in its own way: the time is 1 - sigma, and guidance asks twice."""

    def __init__(self, times: Callable[[int, int], Tensor]) -> None:
        super().__init__(flow=True)
        self.times, self.computed = times, 0
        self.unet = nn.Module()
        self.unet.forward = self._forward
        self.text_encoder, self.vae = [nn.Linear(1, 1)], nn.Linear(1, 1)

    def _forward(self, latents: Tensor, timestep: Tensor) -> Tensor:
        self.computed += 1
        return latents

    def get_generation_pipeline(self) -> str:
        return "pipeline"

    def generate_single_image(self, pipeline: Any, asked: Any, one: Any, other: Any, generator: Any, more: Any) -> None:
        assert (pipeline, asked.guidance_scale, asked.ctrl_img) == ("pipeline", 1.0, None)
        for part in (*self.text_encoder, self.vae):
            # as the host's pipelines do with all their parts
            assert part.to("meta").weight.device == CPU, "what is not needed stays where it is"
        for time in self.times(asked.height, asked.num_inference_steps):
            for _ in range(2):
                self.unet(torch.zeros(1), timestep=time[None])
        raise AssertionError("there is nothing to decode")


def test_a_flow_schedule_is_recorded_while_the_host_draws() -> None:
    """Whatever the family counts and shifts; it computes once, and nothing is decoded."""
    sd = Drawn(lambda height, steps: 1 - torch.linspace(1, height / 4096, steps))
    own = sd.unet.forward
    denoiser = encoded(sd)
    for height in (512, 1024):
        sampler = denoiser.sampler("flow", 4, (4, height // 8, 64))
        assert sampler.timesteps.tolist() == pytest.approx(torch.linspace(1000, 1000 * height / 4096, 4).tolist())
    assert (sd.computed, sd.unet.forward, denoiser.remarks) == (2, own, [])
    denoiser.sampler("flow", 4, (4, 64, 64))
    assert sd.computed == 2, "a schedule is recorded once"
    assert sd.vae.to("meta").weight.is_meta, "and moves again afterwards"


def test_sampling_that_cannot_be_understood_is_said() -> None:
    """The walk goes by the scheduler's config then."""
    denoiser = encoded(Drawn(lambda height, steps: torch.ones(steps)))
    expected = encoded(StrictSd(flow=True)).sampler("flow", 4, (4, 64, 64)).timesteps
    assert denoiser.sampler("flow", 4, (4, 64, 64)).timesteps.tolist() == expected.tolist()
    assert "how ai-toolkit samples sd1 is not known" in denoiser.remarks[0]


class Mixing(StrictSd):
    """A model that lets the prompts of one call disturb one another, or takes only prompts of one kind in a call."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__()
        self.fails = fails

    def predict_noise(self, latents: Tensor, conditional_embeddings: Embeds, timestep: Tensor, **more: Any) -> Tensor:
        values = conditional_embeddings.text_embeds
        if self.fails and len(set(values.tolist())) > 1:
            raise RuntimeError("prompts of unequal length")
        mixed = Embeds(values.mean().expand(len(values)))
        return super().predict_noise(latents, mixed, timestep, **more)


@pytest.mark.parametrize(("fails", "said"), [(False, "they differ by 50"), (True, "RuntimeError: prompts of unequal")])
def test_rows_that_disturb_one_another_are_noticed(fails: bool, said: str) -> None:
    """1 and 2 alone are 1 and 2, and 1.5 both together; asked one by one they are right."""
    denoiser = encoded(Mixing(fails=fails))
    table = denoiser.encode(["1", "2"])
    assert said in rows_differ(denoiser, table, [0, 1], (4, 8, 8), exact=True)
    denoiser.separate = True
    assert rows_differ(denoiser, table, [0, 1], (4, 8, 8), exact=True) == ""
    plain = encoded(StrictSd())
    assert rows_differ(plain, plain.encode(["1", "2"]), [0, 1], (4, 8, 8), exact=True) == ""


def test_rows_that_are_known_to_be_mixed_need_not_be_seen_to_differ() -> None:
    """In 16 bits the small difference of one family is within what batches of other shapes differ by."""
    sd = StrictSd()
    sd.arch = "mageflow"
    denoiser = encoded(sd)
    table = denoiser.encode(["1", "2"])
    (said,) = denoiser.check(table, "ddim", 4, [(64, 64)], exact=False)
    assert said.startswith("mageflow takes one prompt a call")
    sd.asked.clear()
    denoiser.predict(torch.zeros(2, 4, 8, 8), torch.full((2,), 500.0), table.rows([0, 1]), torch.zeros(2, 6))
    assert [asked["rows"] for asked in sd.asked] == [1, 1]


def test_a_model_that_fails_for_one_prompt_is_refused_before_the_first_step() -> None:
    """With what it says."""
    sd = StrictSd()
    sd.predict_noise = None  # type: ignore[method-assign,assignment]
    denoiser = encoded(sd)
    with pytest.raises(ModelError, match="does not predict for a prompt: TypeError"):
        rows_differ(denoiser, denoiser.encode(["1"]), [0, 0], (4, 8, 8), exact=True)


def test_signal_to_noise_of_flow_models() -> None:
    """((1 - s) / s)^2: as much signal as noise in the middle, none at the beginning."""
    denoiser = denoiser_of(StrictSd(flow=True))
    assert denoiser.prediction_type == "flow"
    assert denoiser.snr(torch.tensor([1000.0, 750.0, 500.0])).tolist() == pytest.approx([0, 1 / 9, 1])


def test_a_v_model_is_known_from_the_job() -> None:
    """The host says what its job says."""
    sd = StrictSd()
    sd.prediction_type = "v_prediction"
    assert denoiser_of(sd).prediction_type == "v_prediction"
