"""LECO's side of OneTrainer, against stand-ins that hold to the host's contract."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from models import Recorder, SmallDenoiser, randn, randomize, seeded
from onetrainer_stand_in import ALPHA, RANK, Commands, Model, Sampler, Setup, Trainer, kind
from safetensors import safe_open
from safetensors.torch import load_file

from leco_plugin.config.schema import LecoConfig, PromptPair
from leco_plugin.engine.assemble import Training, assemble
from leco_plugin.engine.step import StepSettings
from leco_plugin.engine.stop import Stop
from leco_plugin.errors import ConfigError, ModelError, TrainingError
from leco_plugin.events import RunEnded, Warned
from leco_plugin.hosts.onetrainer.denoiser import HostDenoiser
from leco_plugin.hosts.onetrainer.description import describe
from leco_plugin.hosts.onetrainer.gradients import Gradients
from leco_plugin.hosts.onetrainer.run import Plan, Run, begin
from leco_plugin.hosts.onetrainer.setup import LecoMixin
from leco_plugin.hosts.onetrainer.trainer import TrainerMixin
from leco_plugin.hosts.reported import Reported
from leco_plugin.network.layers import Size
from leco_plugin.network.peft_lora import PeftLora

PAIRS = (
    PromptPair(target="cat", positive="cat", resolution=(64, 64), batch_size=2, guidance_scale=1.5),
    PromptPair(target="dog", positive="a cat", neutral="dog", action="enhance", multiplier=-1.5, resolution=(64, 64)),
)
LECO = LecoConfig(max_denoising_steps=4)


def config_of(folder: Path | None = None, **changes: Any) -> Any:
    values = {
        "model_type": kind("STABLE_DIFFUSION_15"),
        "training_method": "LORA",
        "train_device": "cpu",
        "train_dtype": "FLOAT_32",
        "debug_mode": False,
        "epochs": 2,
        "batch_size": 1,
        "base_model_name": "some/model",
        "peft_type": "LORA",
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "learning_rate": 1e-2,
        "gradient_accumulation_steps": 1,
        "dropout_probability": 0.0,
        "rescale_noise_scheduler_to_zero_terminal_snr": False,
        "continue_last_backup": False,
        "workspace": folder,
        "backup_at": None,
        "get_last_backup_path": lambda: folder and str(folder / "backup"),
    }
    return SimpleNamespace(**{**values, **changes})


class MixedSetup(LecoMixin, Setup):
    leco_seed = 5


def plan_of(pairs: Any = PAIRS, **changes: Any) -> Plan:
    values = {
        "pairs": pairs,
        "leco": LECO,
        "settings": StepSettings(),
        "sampler": "ddim",
        "epoch_steps": 3,
        "seed": 5,
        "epochs": 2,
    }
    return Plan(**{**values, **changes})


def begun(model: Model, plan: Plan | None = None, **changes: Any) -> Run:
    """A run over a model that the stand-in has set up, with a LoRA that does something."""
    facts = ("is_flow_matching",) if model.flow else ()
    config, setup = config_of(model_type=kind("KIND", *facts), **changes), MixedSetup("cpu", "cpu", False)
    setup.setup_model(model, config)
    randomize(model.lora.parameters(), std=0.2)
    heard, plan = Recorder(), plan or plan_of()

    def draw(height: int, width: int, steps: int) -> None:
        Sampler(model).sample(SimpleNamespace(height=height, width=width, diffusion_steps=steps), "unused")

    denoiser = HostDenoiser(setup, model, config, plan.resolution, draw)
    run = begin(plan, denoiser, reported_in(Path("unused"), [heard]), Commands(), Stop(), scaled=False)
    setup.leco, run.heard = run, heard
    return run


def builtin_training(layers: list[str]) -> tuple[Training, PeftLora]:
    """The same run in the built-in host: the same UNet, LoRA, pairs and seed."""
    unet = Model().unet
    network = PeftLora(unet, rank=RANK, alpha=ALPHA, seed=0, plan={name: Size(RANK, ALPHA) for name in layers})
    randomize(network.parameters(), std=0.2)
    denoiser, plan = SmallDenoiser(unet), plan_of()
    parts = {"denoiser": denoiser, "network": network, "sampler": "ddim"}
    return assemble(plan.pairs, plan.leco, plan.settings, **parts, generator=seeded(plan.seed)), network


def reported_in(folder: Path, observers: list[Any]) -> Reported:
    """What tells ``observers`` of a run in ``folder``."""
    plan, config = (
        plan_of(),
        SimpleNamespace(
            output_model_destination="lora.safetensors", workspace_dir=folder, base_model_name="some/model"
        ),
    )
    reported = Reported(describe(plan, config))
    reported._report._observers = observers
    return reported


def alphas(model: Model) -> list[float]:
    return [float(layer.alpha) for layer in model.lora.layers.values()]


# --- the step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_and_gradients_are_those_of_the_builtin_host(checkpointing):
    """At negative strengths too, and where the backward pass computes the forward again."""
    model = Model()
    if checkpointing:
        model.unet.enable_gradient_checkpointing()
    run = begun(model)
    expected, network = builtin_training(list(model.lora.layers))
    for _ in range(4):
        loss = run.loss()
        loss.backward()
        result = expected.step.run(expected.walks, torch.autograd.backward)
        torch.testing.assert_close(loss.detach(), result.loss)
    for ours, theirs in zip(run.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_the_host_s_own_methods_are_left_as_they_are_between_steps():
    """Its sampler encodes prompts and its noise is noise; the LoRA has the strength that the config gives it."""
    model = Model()
    run = begun(model)
    run.loss()
    setup = run.denoiser.setup
    assert "encode_text" not in vars(model)
    assert "get_velocity" not in vars(model.noise_scheduler)
    assert setup._create_noise(randn(1, 4, 8, 8), None, seeded(0)).abs().max() > 0
    assert alphas(model) == [ALPHA] * len(alphas(model))
    assert model.on_device == {"unet"}


@pytest.mark.parametrize("value", [-1.5, 0.0, 0.5, 1.0])
def test_a_strength_lasts_as_long_as_its_block(value):
    """Whatever happens in it."""
    model = Model()
    run = begun(model)
    layer = next(iter(model.lora.layers.values()))
    x = randn(1, 2, layer.own[0].in_features)
    with suppress(KeyError), run.network.multiplier(value):
        inside = layer.own[0].forward(x)
        raise KeyError
    difference = layer.own[0].forward(x) - layer.base(x)
    torch.testing.assert_close(inside, layer.base(x) + value * difference)
    assert difference.abs().max() > 0


def test_dropout_is_for_the_student():
    """Walks and teacher are of the network as it is."""
    model = Model()
    run = begun(model, dropout_probability=0.5)
    for layer in model.lora.layers.values():
        layer.dropout.p = 0.5
    with torch.no_grad(), run.network.multiplier(1.0):
        assert not any(layer.dropout.training for layer in model.lora.layers.values())
    with run.network.multiplier(1.0):
        assert all(layer.dropout.training for layer in model.lora.layers.values())


def test_text_of_different_lengths_goes_through_the_model_one_by_one():
    """And text of one length, or one prompt, in one call."""
    model = Model(ragged=True)
    run = begun(model)
    table = run.denoiser.encode(["cat", "tree", "dog"])
    latents, timesteps, sizes = randn(2, 4, 8, 8), torch.tensor([5, 5]), torch.zeros(2, 6)
    calls = []
    for prompts in ([0, 1], [0, 2], [1, 1]):
        model.asked.clear()
        run.denoiser.predict(latents, timesteps, table.rows(prompts), sizes)
        calls.append(list(model.asked))
    assert calls == [[1, 1], [2], [2]]


@pytest.mark.parametrize("kind_of_latents", ["frames", "patches"])
def test_latents_take_the_form_that_the_host_s_model_wants(kind_of_latents):
    """Frames come and go around the model, and patches with the noise; the step sees (B, C, h, w)."""
    plain, other = begun(Model(flow=True)), begun(Model(flow=True, **{kind_of_latents: True}))
    for _ in range(2):
        torch.testing.assert_close(other.loss().detach(), plain.loss().detach())


def test_a_size_that_does_not_fit_is_refused_before_the_first_step():
    """By its pixels."""
    with pytest.raises(ModelError, match="60 x 64 pixels is not a multiple of 8"):
        begun(Model(), plan_of(pairs=[PAIRS[0].model_copy(update={"resolution": (60, 64)}), PAIRS[1]]))


def test_a_flow_is_walked_from_noise_along_its_velocity():
    """Sigma is timestep / 1000, shifted as the host's scheduler is, and the signal grows as it falls."""
    model = Model(flow=True)
    run = begun(model)
    sampler = run.denoiser.sampler("flow", 4, (4, 8, 8))
    even = torch.tensor([1.0, 0.75, 0.5, 0.25])
    sigmas = 3 * even / (1 + 2 * even)
    torch.testing.assert_close(sampler.timesteps, 1000 * sigmas)
    latents, velocity = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
    moved = sampler.step(velocity, 1, sampler.step(velocity, 0, latents, seeded(0)), seeded(0))
    torch.testing.assert_close(moved, latents + (sigmas[2] - 1) * velocity)
    torch.testing.assert_close(run.denoiser.snr(torch.tensor([500.0, 250.0])), torch.tensor([1.0, 9.0]))
    assert run.denoiser.prediction_type == "flow"
    assert run.loss().isfinite()


class Mixing(Model):
    """A model that lets the prompts of one call disturb one another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        own = self.unet.forward
        self.unet.forward = lambda x, t, text: own(x, t, text.mean(0, keepdim=True).expand_as(text))


def test_rows_that_disturb_one_another_are_asked_one_by_one():
    """It is said once; every call of the run is for one row then, and a model that keeps them apart has its batches."""
    model = Mixing()
    run = begun(model)
    model.asked.clear()
    run.loss()
    assert set(model.asked) == {1}
    assert next(event.message for event in run.heard.of(Warned)).startswith("kind takes one prompt a call: ")
    plain = Model()
    apart = begun(plain)
    plain.asked.clear()
    apart.loss()
    assert max(plain.asked) > 1
    assert not [event for event in apart.heard.of(Warned) if "a call" in event.message]


def mu(height: int, width: int, steps: int) -> dict[str, float]:
    """A shift of 2 for a picture of 64 x 64 pixels, 4 for one of twice the height."""
    return {"mu": math.log(2 * height / 64 * width / 64)}


DYNAMIC = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
ENDING = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
SANA = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


@pytest.mark.parametrize(
    ("scheduler", "timing", "shape", "expected"),
    [pytest.param(DYNAMIC, mu, (4, 8, 8), [1, 6 / 7, 2 / 3, 0.4], id="a shift of the size"),
     pytest.param(DYNAMIC, mu, (4, 16, 8), [1, 12 / 13, 0.8, 4 / 7], id="of another size"),
     pytest.param(ENDING, mu, (4, 8, 8), [1, 1 - 0.98 * 5 / 21, 1 - 0.98 * 5 / 9, 0.02], id="stretched to an end"),
     pytest.param(DYNAMIC, lambda *_: {"mu": 0.0, "sigmas": [1.0, 0.7, 0.3, 0.1]}, (4, 8, 8), [1, 0.7, 0.3, 0.1],
                  id="its own sigmas"),
     pytest.param(SANA, lambda *_: {}, (4, 8, 8), [1, 0.9, 0.75, 0.5], id="another scheduler")],
)  # fmt: skip
def test_a_flow_is_walked_with_the_noise_levels_of_the_host_s_sampler(scheduler, timing, shape, expected):
    """As it sets them for a picture of that size, but that Euler's stops beside the picture are left out."""
    model = Model(flow=True)
    model.noise_scheduler, model.timing = scheduler, timing
    run = begun(model)
    sampler = run.denoiser.sampler("flow", 4, shape)
    torch.testing.assert_close(sampler.timesteps, 1000 * torch.tensor(expected), rtol=1e-3, atol=0.1)
    assert not run.denoiser.remarks


def test_a_sampler_that_cannot_be_asked_is_told_of():
    """Walks then go by the config of the model's scheduler."""
    model = Model(flow=True)
    run = begun(model)
    run.denoiser._draw = lambda *_: None
    sampler = run.denoiser.sampler("flow", 2, (4, 16, 16))
    torch.testing.assert_close(sampler.timesteps, torch.tensor([1000.0, 750.0]))
    assert run.denoiser.remarks == [
        "how OneTrainer samples kind is not known (ValueError: it sets no timesteps); "
        "walks go by its scheduler's config"
    ]


# --- gradients ---------------------------------------------------------------------------------------------------


def handed(scaled: bool, overflows: int = 0, weight: float = 3.0) -> tuple[Gradients, torch.nn.Parameter]:
    """Gradients of ``weight * parameter``, of which the first few overflow on their way, as in fp16."""
    gradients, parameter = Gradients(scaled=scaled), torch.nn.Parameter(torch.ones(2))
    for number in range(overflows + 1):

        def step(backward: Any, number: int = number) -> torch.Tensor:
            loss = (weight * parameter).sum()
            backward(loss * (math.inf if number < overflows else 1))
            return loss.detach()

        parameter.grad = None
        gradients.handed([parameter], step).backward()
    return gradients, parameter


@pytest.mark.parametrize("scaled", [False, True])
def test_the_host_s_backward_pass_gives_the_step_s_gradients(scaled):
    """Added to what the host has accumulated, and multiplied by what it scales the loss with."""
    gradients, parameter = handed(scaled)
    torch.testing.assert_close(parameter.grad, torch.full((2,), 3.0))

    def step(backward: Any) -> torch.Tensor:
        for _ in range(2):
            backward(parameter.sum())
        return torch.zeros(())

    (gradients.handed([parameter], step) / 4).backward()
    torch.testing.assert_close(parameter.grad, torch.full((2,), 3.5))


def test_an_overflow_reaches_the_host_s_scaler_and_lowers_ours():
    """The host leaves that step out, and the next one is computed at half the scale."""
    gradients, _ = handed(True)
    before = gradients.scale
    gradients, parameter = handed(True, overflows=2)
    assert gradients.scale == before / 4
    torch.testing.assert_close(parameter.grad, torch.full((2,), 3.0))


# --- the run -----------------------------------------------------------------------------------------------------


class MixedTrainer(TrainerMixin, Trainer):
    leco_plan = plan_of(leco=LecoConfig(max_denoising_steps=4, walk="pool", pool_size=2))
    leco_host = SimpleNamespace(
        create=SimpleNamespace(get_model_setup_class=lambda kind, method: Setup), grad_scaling=lambda *_: False
    )


def trainer_in(folder: Path, **changes: Any) -> MixedTrainer:
    trainer = MixedTrainer(config_of(folder, **changes), None, Commands())
    trainer.heard, trainer.leco_signal = Recorder(), Stop()
    trainer.leco_reported = reported_in(folder, [trainer.heard])
    return trainer


def trained(folder: Path, **changes: Any) -> MixedTrainer:
    trainer = trainer_in(folder, **changes)
    trainer.start()
    trainer.train()
    return trainer


def weights(trainer: MixedTrainer) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in trainer.model.lora.parameters()]


def test_a_run_that_goes_on_from_a_backup_gives_the_same_lora(tmp_path):
    """Pool, random numbers and figures are beside the host's own state; a backup may be in the middle of an epoch."""
    whole = trained(tmp_path, backup_at=4)
    rest = trained(tmp_path, continue_last_backup=True)
    assert len(whole.losses) == 6
    assert rest.losses == whole.losses[4:]
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(rest), strict=True))
    assert rest.scalars == whole.scalars
    assert {"lr/unet", "leco/goal_reached"} <= rest.scalars.keys()


def test_a_run_speaks_in_events(tmp_path):
    """The same ones as in every host: started, a step at a time, the file; a picture as the host drew it."""
    trainer = trainer_in(tmp_path)
    trainer.start()
    sample = SimpleNamespace(prompt="a cat", seed=7)
    form = SimpleNamespace(extension=lambda: ".png")
    trainer.sampler.sample(sample_config=sample, destination=str(tmp_path / "cat"), image_format=form)
    trainer.train()
    trainer.config.output_model_destination = str(tmp_path / "lora.safetensors")
    trainer.end()
    started, drawn, *steps, saved, ended = [e for e in trainer.heard.events if not isinstance(e, Warned)]
    assert (started.steps, started.done, dict(started.facts)["targets"]) == (6, 0, "'cat', 'dog'")
    assert dict(started.facts)["edit"] == "strength 1.5, 1, at 64 x 64 pixels"
    assert (drawn.path, drawn.seeds, drawn.multipliers) == (tmp_path / "cat.png", (7,), (1.0,))
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert [step.loss for step in steps] == pytest.approx(trainer.losses)
    assert (saved.path, saved.step, saved.final) == (tmp_path / "lora.safetensors", 6, True)
    assert (ended.path, ended.steps, ended.interrupted) == (saved.path, 6, False)
    assert steps[0].learning_rate == 1e-2


def test_a_file_says_what_was_asked_of_it(tmp_path):
    """Beside what the host says of it."""
    trainer = trained(tmp_path)
    trainer.save("KOHYA_LORA", str(tmp_path / "lora.safetensors"))
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        said = file.metadata()
    assert (said["modelspec.title"], said["ss_seed"], said["ss_steps"]) == ("its own", "5", "6")
    assert [pair["target"] for pair in json.loads(said["ss_leco_pairs"])] == ["cat", "dog"]
    tensors = load_file(tmp_path / "lora.safetensors")
    assert all(torch.equal(tensors[str(number)], weight) for number, weight in enumerate(weights(trainer)))


def test_a_backup_of_another_run_is_refused(tmp_path):
    """With what differs; and so is one that LECO has not written."""
    trained(tmp_path, backup_at=4)
    trainer = trainer_in(tmp_path, continue_last_backup=True)
    trainer.leco_plan = plan_of(leco=LecoConfig(max_denoising_steps=5, walk="pool", pool_size=2))
    with pytest.raises(ConfigError, match=r"leco\.max_denoising_steps: 4 in the state, 5 now") as refused:
        trainer.start()
    assert "switch continue_last_backup off" in str(refused.value), "in the host's words, not in another's"
    assert "resume:" not in str(refused.value)
    (tmp_path / "backup" / "leco" / "state.json").unlink()
    trainer = trainer_in(tmp_path, continue_last_backup=True)
    with pytest.raises(ConfigError, match=r"state\.json is missing"):
        trainer.start()


@pytest.mark.parametrize("wish", ["the user's", "the goal's"])
def test_a_run_ends_after_the_step_at_which_it_is_asked_to(tmp_path, wish):
    """By the user, or because enough of the goal is reached."""
    trainer = trainer_in(tmp_path)
    trainer.leco_plan = plan_of(leco=LecoConfig(max_denoising_steps=4, stop_at=0.5))
    trainer.config.output_model_destination = str(tmp_path / "lora.safetensors")
    trainer.start()
    if wish == "the goal's":
        trainer._leco.progress.reached = lambda fraction: fraction == 0.5 and len(trainer.losses) == 2
    else:
        own = trainer._leco.training.step.run

        def step(*given: Any) -> Any:
            trainer.leco_signal.asked = len(trainer.losses) == 1
            return own(*given)

        trainer._leco.training.step.run = step
    trainer.train()
    trainer.end()
    assert len(trainer.losses) == 2
    assert trainer.heard.of(RunEnded)[0].interrupted == (wish == "the user's")


def test_a_goal_that_was_reached_stays_so(tmp_path):
    """A run that goes on from a backup of that trains nothing, and writes the same file again."""
    plan = plan_of(leco=LecoConfig(max_denoising_steps=4, stop_at=0.5))
    destination = {"output_model_destination": str(tmp_path / "lora.safetensors")}
    reached = trainer_in(tmp_path, **destination)
    reached.leco_plan = plan
    reached.start()
    reached._leco.progress.reached = lambda fraction: len(reached.losses) == 2
    reached.train()
    # as the host does where backup_before_save is on
    reached.save("INTERNAL", str(tmp_path / "backup"))
    reached.end()
    written = load_file(destination["output_model_destination"])
    Path(destination["output_model_destination"]).unlink()
    again = trainer_in(tmp_path, continue_last_backup=True, **destination)
    again.leco_plan = plan
    again.start()
    again.train()
    again.end()
    assert not again.losses
    assert "the goal stop_at 0.5 is reached already: no more is trained" in [e.message for e in again.heard.of(Warned)]
    found = load_file(destination["output_model_destination"])
    assert all(torch.equal(written[key], found[key]) for key in written)
    (ended,) = again.heard.of(RunEnded)
    assert (ended.steps, ended.interrupted) == (2, False)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    """Before the weights are touched."""
    trainer = trainer_in(tmp_path)
    trainer.start()
    before = [weight.clone() for weight in weights(trainer)]
    trainer.model.unet.conv_out.weight.data[0, 0] = math.nan
    with pytest.raises(TrainingError, match="the loss is nan"):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))
