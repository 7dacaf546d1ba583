"""The command line of a run in OneTrainer and the config that it starts from, against a stand-in of that config."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onetrainer_stand_in import Commands, kind

from leco_plugin.commands.main import main
from leco_plugin.config.build import load_prompts
from leco_plugin.config.schema import JobConfig, LecoConfig
from leco_plugin.errors import ConfigError, LecoError, NetworkError, PluginError
from leco_plugin.hosts.folders import remember
from leco_plugin.hosts.onetrainer import contract, host_config
from leco_plugin.hosts.onetrainer.flags import read_flags
from leco_plugin.hosts.onetrainer.network import refuse_strengths
from leco_plugin.hosts.onetrainer.section import settled_run

NEEDED = ["--root", "ot", "--config-path", "c.json", "--prompts", "p.toml"]
PRESETS = {"attn-mlp": ["attentions"], "full": [], "odd": {"patterns": ["a.*", "b"], "regex": True}}


class Config:
    """Takes values as the host does: unknown keys are dropped, what does not fit is printed and left."""

    config_version = 11

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)
        self.types = {name: type(value) for name, value in values.items()}

    def from_dict(self, data: dict[str, Any], migrate: bool = True) -> Config:
        if migrate:
            assert data.get("__version") == self.config_version, "taken for the oldest format"
        for name, kind_of_value in self.types.items():
            if name not in data:
                continue
            if isinstance(getattr(self, name), Config):
                getattr(self, name).from_dict(data[name], migrate=False)
                continue
            try:
                setattr(self, name, data[name] if kind_of_value is bool else kind_of_value(data[name]))
            except ValueError:
                print(f"Could not set {name} as {data[name]}")  # noqa: T201
        return self


def part(train: bool = True) -> Config:
    return Config(train=train, train_embedding=True, weight_dtype="FLOAT_32")


def default_config() -> Config:
    layers = {"layer_filter": "", "layer_filter_preset": "full", "layer_filter_regex": False}
    return Config(
        training_method="LORA",
        model_type=kind("STABLE_DIFFUSION_15"),
        base_model_name="some/model",
        resolution="512",
        multi_gpu=False,
        cloud=Config(enabled=False),
        epochs=100,
        lora_rank=16,
        output_model_format="KOHYA_LORA",
        validation=False,
        debug_mode=False,
        learning_rate_scaler="NONE",
        learning_rate_warmup_steps=200.0,
        batch_size=1,
        gradient_accumulation_steps=2,
        masked_training=False,
        only_cache=False,
        latent_caching=False,
        clear_cache_before_training=True,
        train_device="cpu",
        train_dtype="FLOAT_32",
        sample_definition_file_name="samples.json",
        samples=None,
        additional_embeddings=[],
        offset_noise_weight=0.0,
        loss_weight_fn="CONSTANT",
        loss_weight_strength=5.0,
        mse_strength=1.0,
        mae_strength=0.0,
        log_cosh_strength=0.0,
        huber_strength=0.0,
        peft_type="LORA",
        lora_decompose=False,
        lokr_weight_decompose=False,
        optimizer=Config(fused_back_pass=False, weight_decay=0.01),
        quantization=Config(**layers),
        secrets=None,
        **layers,
        **{name: part() for name in ("unet", "vae", *host_config.TEXT_ENCODERS)},
    )


HOST: Any = SimpleNamespace(
    config=SimpleNamespace(default_values=default_config),
    secrets=SimpleNamespace(default_values=lambda: Config(huggingface_token="")),
    method=SimpleNamespace(LORA="LORA"),
    dtype=SimpleNamespace(FLOAT_16="FLOAT_16", FLOAT_32="FLOAT_32"),
    create=SimpleNamespace(get_model_setup_class=lambda *_: SimpleNamespace(LAYER_PRESETS=PRESETS)),
)


def read(folder: Path, config: object, *flags: str) -> Any:
    path = folder / "c.json"
    path.write_text(json.dumps(config))
    return host_config.read_config(HOST, read_flags([*NEEDED, "--config-path", str(path), *flags]))


# --- flags -------------------------------------------------------------------------------------------------------


def test_paths_are_absolute_before_the_host_changes_the_folder(tmp_path, monkeypatch):
    """The host's own folder becomes the working directory."""
    monkeypatch.chdir(tmp_path)
    flags = read_flags([*NEEDED, "--secrets-path", "s.json"])
    found = (flags.root, flags.config, flags.prompts, flags.secrets)
    assert found == tuple(tmp_path / name for name in ("ot", "c.json", "p.toml", "s.json"))


def test_every_option_of_a_job_s_leco_section_can_be_set():
    """By its name, and prompts to preserve one by one."""
    flags = read_flags(
        [*NEEDED, "--leco", "walk=pool", "--leco", "stop_at=0.9", "--preserve", "a dog", "--preserve", ""]
    )
    assert flags.leco == LecoConfig(walk="pool", stop_at=0.9, preserve=("a dog", ""))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--leco", "walks=pool"], "--leco: leco.walks: unknown key\n  fix: did you mean 'walk'"),
        (["--leco", "pool_size=0"], "--leco: leco.pool_size: must be at least 1"),
        (["--epoch-steps", "0"], "--epoch-steps"),
        (["--nonsense"], "--nonsense"),
        (["--noise-scheduler", "heun"], "heun"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_named(flags, message):
    """Without a traceback and before anything is loaded."""
    with pytest.raises(ConfigError, match=message):
        read_flags([*NEEDED, *flags])


# --- what is left open --------------------------------------------------------------------------------------------

SLIDER = '[[targets]]\ntarget_class = "a"\npositive = "a big"\nnegative = "a small"\n'


def settled(folder: Path, config: dict[str, Any], prompts: str = SLIDER, **leco: Any) -> JobConfig:
    (folder / "p.toml").write_text(prompts)
    return settled_run(load_prompts(folder / "p.toml"), LecoConfig(**leco), config, fetch=False).job


@pytest.mark.parametrize(
    ("model_type", "strength", "walk"),
    [
        ("STABLE_DIFFUSION_15", 1.5, (40, 3.0)),
        ("STABLE_DIFFUSION_21", 1.5, (40, 3.0)),
        ("STABLE_DIFFUSION_XL_10_BASE", 2.0, (40, 3.0)),
        ("PIXART_SIGMA", 1.5, (40, 3.0)),
        ("STABLE_DIFFUSION_35", 1.5, (30, 4.5)),
        ("KREA_2", 1.5, (30, 5.0)),
        ("QWEN", 1.5, (30, 4.0)),
        ("HI_DREAM_FULL", 1.5, (30, 4.0)),
        # distilled as they are: their answers have guidance in them
        ("FLUX_DEV_1", 1.0, (30, 1.0)),
        ("FLUX_2", 1.0, (30, 1.0)),
    ],
)
def test_what_prompts_and_flags_leave_open_is_as_the_model_s_family_has_it(tmp_path, model_type, strength, walk):
    """The same table as in the built-in host; what is said stays."""
    job = settled(tmp_path, {"model_type": model_type, "base_model_name": "some/model"})
    assert {pair.guidance_scale for pair in job.pairs} == {strength}
    assert (job.leco.max_denoising_steps, job.leco.denoise_guidance_scale) == walk
    prompts = SLIDER.replace("[[targets]]", "guidance_scale = 7\n[[targets]]")
    said = settled(tmp_path, {"model_type": model_type}, prompts, max_denoising_steps=9, denoise_guidance_scale=2.0)
    assert {pair.guidance_scale for pair in said.pairs} == {7.0}
    assert (said.leco.max_denoising_steps, said.leco.denoise_guidance_scale) == (9, 2.0)


def test_a_turbo_walks_as_it_is_sampled(tmp_path):
    """Told by its name where its files are not at hand."""
    job = settled(tmp_path, {"model_type": "Z_IMAGE", "base_model_name": "Tongyi-MAI/Z-Image-Turbo"})
    assert (job.leco.max_denoising_steps, job.leco.denoise_guidance_scale) == (8, 1.0)
    job = settled(tmp_path, {"model_type": "FLUX_DEV_1", "base_model_name": "black-forest-labs/FLUX.1-schnell"})
    assert (job.leco.max_denoising_steps, job.leco.denoise_guidance_scale) == (4, 1.0)


@pytest.mark.parametrize(
    ("resolution", "side"), [("640", 640), (None, 1024), ("512,768", 1024), ("512x768", 1024), ("700", 1024)]
)
def test_the_size_of_pictures_is_the_config_s_where_it_says_one(tmp_path, resolution, side):
    """Else the family's; a pair that says its own keeps it."""
    config = {"model_type": "STABLE_DIFFUSION_XL_10_BASE", **({"resolution": resolution} if resolution else {})}
    assert {pair.resolution for pair in settled(tmp_path, config).pairs} == {(side, side)}
    own = SLIDER.replace("[[targets]]", "resolution = 256\n[[targets]]")
    assert {pair.resolution for pair in settled(tmp_path, config, own).pairs} == {(256, 256)}


@pytest.mark.parametrize(
    ("config", "flags", "expected"),
    [({}, (), None), ({"resolution": "768"}, (), "768"), ({}, ("--config-value", "resolution=640"), "640")],
)
def test_a_size_that_the_host_has_by_itself_is_not_said(tmp_path, config, flags, expected):
    """512 whatever the model, in a config that does not speak of it."""
    path = tmp_path / "c.json"
    path.write_text(json.dumps(config))
    given = read_flags([*NEEDED, "--config-path", str(path), *flags])
    assert host_config.said(host_config.read_config(HOST, given), given).get("resolution") == expected
    window = replace(given, config=None, values=())
    assert host_config.said(default_config(), window)["resolution"] == "512"


def test_prompts_of_the_file_are_preserved_as_those_of_the_command_line(tmp_path):
    """Together, each once; none may be one that is to change."""
    kept = 'preserve = ["a dog", "a tree"]\n' + SLIDER
    assert settled(tmp_path, {}, kept, preserve=("a tree", "")).leco.preserve == ("a tree", "", "a dog")
    with pytest.raises(ConfigError, match="'a' is to be kept as it is, and is a target that is to change"):
        settled(tmp_path, {}, preserve=("a",))


# --- the host's config -------------------------------------------------------------------------------------------


def test_config_preset_and_single_values_count_in_the_host_s_order(tmp_path):
    """Preset, config, values; a file that says no version is of now."""
    (tmp_path / "preset.json").write_text('{"epochs": 1, "lora_rank": 1, "optimizer": {"weight_decay": 0.5}}')
    preset = ["--preset-path", str(tmp_path / "preset.json")]
    config = read(tmp_path, {"epochs": 2}, *preset, "--config-value", "optimizer.weight_decay=0.25")
    assert (config.epochs, config.lora_rank, config.optimizer.weight_decay) == (2, 1, 0.25)
    assert read(tmp_path, {"epochs": 3}).epochs == 3


@pytest.mark.parametrize("value", ["epochs", "epoch=1", "optimizer.decay=1", "epochs.x=1", "epochs=many"])
def test_a_value_that_the_host_would_drop_is_refused(tmp_path, value):
    """The host goes on without it."""
    with pytest.raises(ConfigError, match=f"--config-value {value}"):
        read(tmp_path, {}, "--config-value", value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"epochs": "many"}, r"c\.json: epochs: OneTrainer does not take this value"),
        ({"epoch": 3}, r"c\.json: epoch: OneTrainer has no such value\n  fix: did you mean 'epochs'"),
        ({"optimizer": {"weight_deca": 1}}, r"optimizer\.weight_deca: .*\n  fix: did you mean 'weight_decay'"),
        ({"__version": 99}, "its version is 99, and this OneTrainer reads 11 and older"),
    ],
)
def test_what_the_host_would_drop_from_a_file_is_refused(tmp_path, config, message):
    """It would train something else than asked, and exit with 0; in a preset as in a config."""
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, config)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "c.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message.replace("11 and older", "11 alone beside a preset")):
        read(tmp_path, {}, "--preset-path", str(tmp_path / "p" / "c.json"))


def test_what_presets_of_the_host_have_is_taken(tmp_path):
    """A third of them have one key that it drops itself."""
    assert read(tmp_path, {"weight_dtype": "BFLOAT_16", "epochs": 3}).epochs == 3


def test_beside_a_preset_nothing_is_brought_up_to_date(tmp_path):
    """So the host would misread an older config without a word."""
    (tmp_path / "preset.json").write_text("{}")
    with pytest.raises(ConfigError, match="its version is 10, and this OneTrainer reads 11 alone beside a preset"):
        read(tmp_path, {"__version": 10}, "--preset-path", str(tmp_path / "preset.json"))


@pytest.mark.parametrize(("steps", "epochs", "length"), [(500, 10, 100), (75, 2, 75), (211, 1, 422), (None, 100, 100)])
def test_a_run_can_be_told_its_steps(tmp_path, steps, epochs, length):
    """Of two batches each, in epochs of about the usual length."""
    config = read(tmp_path, {})
    flags = read_flags([*NEEDED, *(["--steps", str(steps)] if steps else [])])
    assert (host_config.set_steps(config, flags), config.epochs) == (length, epochs)
    assert steps is None or epochs * length == 2 * steps


@pytest.mark.parametrize(("steps", "warming", "said"), [(199, 200.0, True), (200, 200.0, False), (10, 0.5, False)])
def test_a_run_that_is_over_before_it_is_warm_is_told_of(steps, warming, said):
    """The host's default is 200 batches, here two a step; up to 1 is a share of the run."""
    config = default_config()
    config.learning_rate_warmup_steps = warming
    assert any("learning_rate_warmup_steps is 200" in doubt for doubt in host_config.doubts(config, steps)) == said


def test_a_command_line_can_be_short(tmp_path, monkeypatch):
    """The folder is the one that was checked or used last."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError, match="the folder of onetrainer is not known yet"):
        read_flags(["c.json", "p.toml"])
    remember("onetrainer", tmp_path / "ot")
    flags = read_flags(["c.json", "p.toml"])
    assert flags == read_flags(["--root", "ot", "--config-path", "c.json", "--prompts", "p.toml"])
    for wrong, message in (
        (["c.json"], "are needed"),
        (["c.json", "p.toml", "--steps", "1", "--epoch-steps", "1"], "both"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_flags(wrong)


def test_mistakes_in_files_are_said_before_the_host_is_imported(tmp_path, monkeypatch, capsys):
    """There is no such host: importing it would be another error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.toml").write_text('[[targets]]\ntarget = "a"\npositive = "a"\n')
    (tmp_path / "c.json").write_text("{,}")
    assert main(["host", "run", "onetrainer", "c.json", "p.toml", "--root", "ot"]) == 2
    assert "c.json:1" in capsys.readouterr().err


def test_a_config_that_is_none_is_refused(tmp_path):
    """With its name."""
    with pytest.raises(ConfigError, match=r"c\.json: this is no config"):
        read(tmp_path, [1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_method": "FINE_TUNE"}, "training method is FINE_TUNE"),
        ({"model_type": kind("SD_INPAINTING", "has_conditioning_image_input")}, "SD_INPAINTING.*inpainting"),
        ({"model_type": kind("SD_DEPTH", "has_depth_input")}, "SD_DEPTH.*depth"),
        ({"model_type": kind("WUERSTCHEN_2", "is_wuerstchen")}, "WUERSTCHEN_2"),
        ({"model_type": kind("IDEOGRAM_4", "is_ideogram")}, "IDEOGRAM_4"),
        ({"model_type": kind("HUNYUAN_VIDEO", "is_video_model")}, "HUNYUAN_VIDEO.*video"),
        ({"multi_gpu": True}, "multi_gpu"),
        ({"output_model_format": "SAFETENSORS"}, "output_model_format is SAFETENSORS"),
        ({"cloud": Config(enabled=True)}, "cloud"),
    ],
)
def test_what_leco_cannot_do_is_refused_by_name(changes, message):
    """Before a model is loaded."""
    config = default_config()
    host_config.refuse(HOST, config)
    vars(config).update(changes)
    with pytest.raises(LecoError, match=message):
        host_config.refuse(HOST, config)


def test_what_belongs_to_pictures_is_switched_off_and_said(tmp_path, monkeypatch):
    """The text encoder is not trained, and the caches of the user's other runs are left alone."""
    monkeypatch.chdir(tmp_path)
    config = default_config()
    config.validation = config.optimizer.fused_back_pass = True
    config.train_dtype = config.unet.weight_dtype = "FLOAT_16"
    said = [line.split()[0] for line in host_config.adapt(HOST, config)]
    assert said == ["text_encoder", "validation", "fused_back_pass", "train_dtype", "unet.weight_dtype"]
    assert not config.text_encoder.train
    assert not config.clear_cache_before_training
    assert not config.optimizer.fused_back_pass
    assert (config.latent_caching, config.concepts, config.samples) == (True, [], [])
    assert config.train_dtype == config.unet.weight_dtype == "FLOAT_32"


@pytest.mark.parametrize(
    ("preset", "patterns", "regex"),
    [
        ("attn-mlp", "attentions", False),
        ("odd", "a.*,b", True),
        ("gone", "attentions", False),
        ("custom", "mine", False),
    ],
)
def test_layer_presets_are_resolved_as_the_ui_does(preset, patterns, regex):
    """The host's own command line trains every layer instead; the first preset stands for one that is not there."""
    config = default_config()
    config.layer_filter, config.layer_filter_preset = "mine", preset
    list(host_config.adapt(HOST, config))
    assert (config.layer_filter, config.layer_filter_regex) == (patterns, regex)
    assert config.quantization.layer_filter == ""


def test_a_layer_filter_on_the_command_line_is_kept(tmp_path):
    """It is a custom one."""
    config = read(tmp_path, {"layer_filter_preset": "attn-mlp"}, "--config-value", "layer_filter=down_blocks")
    list(host_config.adapt(HOST, config))
    assert config.layer_filter == "down_blocks"


def test_the_host_s_noise_and_loss_options_are_the_step_s():
    """Those that mean the same; the others are refused where they are on."""
    config = default_config()
    vars(config).update(offset_noise_weight=0.1, loss_weight_fn="MIN_SNR_GAMMA", mse_strength=0.0, mae_strength=1.0)
    settings = host_config.step_settings(config, LecoConfig(denoise_guidance_scale=2.0, preserve_weight=0.5))
    assert (settings.noise_offset, settings.min_snr_gamma, settings.loss_type) == (0.1, 5.0, "l1")
    assert (settings.denoise_guidance_scale, settings.preserve_weight) == (2.0, 0.5)
    for changes in ({"huber_strength": 1.0}, {"mae_strength": 0.0}, {"loss_weight_fn": "P2"}):
        other = default_config()
        vars(other).update({"mse_strength": 0.0, "mae_strength": 1.0, **changes})
        with pytest.raises(ConfigError):
            host_config.step_settings(other, LecoConfig())


@pytest.mark.parametrize(
    ("network", "scales"),
    [
        ({"peft_type": "LORA"}, True),
        ({"peft_type": "LOHA", "lora_decompose": True}, True),
        ({"peft_type": "LORA", "lora_decompose": True}, False),
        ({"peft_type": "LOKR", "lokr_weight_decompose": True}, False),
        ({"peft_type": "OFT_2"}, False),
    ],
)
def test_networks_without_a_strength_train_at_strength_1_only(network, scales):
    """A slider with them is refused."""
    config = default_config()
    vars(config).update(network)
    refuse_strengths(config, {1.0})
    if scales:
        refuse_strengths(config, {1.0, -1.0})
        return
    with pytest.raises(NetworkError, match="other strengths than 1"):
        refuse_strengths(config, {1.0, -1.0})


# --- the folder --------------------------------------------------------------------------------------------------


def host_folder(folder: Path) -> Path:
    """Looks like the host, and cannot be imported."""
    (folder / "modules" / "trainer").mkdir(parents=True)
    (folder / "modules" / "trainer" / "GenericTrainer.py").write_text("import no_such_package_as_this\n")
    return folder


def test_a_folder_that_is_not_the_host_is_refused(tmp_path, capsys):
    """By run and check alike."""
    with pytest.raises(PluginError, match="is not a OneTrainer folder"):
        contract.enter(tmp_path)
    assert main(["host", "check", "onetrainer", str(tmp_path)]) == 2
    assert "is not a folder of OneTrainer" in capsys.readouterr().err


def test_another_package_in_the_host_s_place_is_refused(tmp_path, monkeypatch):
    """The host's is called `modules`, as others are."""
    monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(__path__=["elsewhere/modules"]))
    with pytest.raises(PluginError, match="another package called 'modules'"):
        contract.enter(host_folder(tmp_path))


def test_check_says_what_is_missing(tmp_path, capsys):
    """The host is imported in another process, and what it lacks is named."""
    assert main(["host", "check", "onetrainer", str(host_folder(tmp_path))]) == 2
    shown = capsys.readouterr()
    assert "OneTrainer, commit unknown (tested: " in shown.out
    assert "OneTrainer cannot be imported: " in shown.err


def test_the_command_passes_its_flags_on(tmp_path, capsys, monkeypatch):
    """`leco host run onetrainer` with what stands after it."""
    monkeypatch.chdir(tmp_path)
    assert main(["host", "run", "onetrainer", "--root", "ot", "--config-path", "c.json", "--prompts", "none.toml"]) == 2
    assert "none.toml: there is no such file" in capsys.readouterr().err


# --- starting ----------------------------------------------------------------------------------------------------


class Trained:
    """The host's trainer: fails where it loads the model, and has a TensorBoard that only ``end`` ends."""

    ended = 0

    def __init__(self, config: Any, callbacks: Any, commands: Any) -> None:
        self.config, self.commands = config, commands

    def start(self) -> None:
        raise Exception("could not load model")

    def end(self) -> None:
        Trained.ended += 1


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a config and prompts, where the host is the stand-in of this file."""
    (tmp_path / "p.toml").write_text('[[targets]]\ntarget = "a"\npositive = "a"\n')
    (tmp_path / "c.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trained, "ended", 0)
    more = {"trainer": Trained, "callbacks": SimpleNamespace, "commands": Commands}
    host = SimpleNamespace(**{**vars(HOST), **more, "create": SimpleNamespace(**vars(HOST.create))})
    monkeypatch.setattr(contract, "enter", lambda root: host)
    own = default_config
    paths = {"output_model_destination": "lora.safetensors", "workspace_dir": "ws"}

    def with_paths() -> Config:
        config = own()
        vars(config).update(paths)
        return config

    monkeypatch.setattr(HOST.config, "default_values", with_paths)
    return host


def test_a_run_that_fails_ends_as_the_host_does(place, capsys):
    """Its TensorBoard would go on for ever otherwise; the user reads one sentence."""
    assert main(["host", "run", "onetrainer", "c.json", "p.toml", "--root", "."]) == 2
    assert "OneTrainer: could not load model" in capsys.readouterr().err
    assert Trained.ended == 1


def test_the_window_starts_leco_with_a_copy_of_its_config(place, tmp_path, monkeypatch):
    """Prompts are read at each start; what cannot be trained is an error of the start, which the window shows."""
    config, tried = default_config(), []
    vars(config).update({"output_model_destination": "l", "workspace_dir": "ws"})

    def press_start() -> None:
        for prompts in (None, "[[targets]]\ntarget = 1\n"):
            if prompts:
                (tmp_path / "p.toml").write_text(prompts)
            trainer = place.create.create_trainer(config, None, Commands(), reattach=False)
            with pytest.raises(LecoError) as refused:
                trainer.start()
            trainer.end()
            tried.append(str(refused.value))

    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "train_ui.py").write_text("import window_of_the_host\nwindow_of_the_host.open()\n")
    monkeypatch.setitem(sys.modules, "window_of_the_host", SimpleNamespace(open=press_start))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    assert main(["host", "ui", "onetrainer", "p.toml", "--root", "."]) == 0
    assert "could not load model" in tried[0]
    assert "p.toml:2" in tried[1]
    assert config.samples is None, "the window's own config is as it was"
    assert Trained.ended == 1


def test_a_window_that_cannot_be_opened_is_told_of(place, tmp_path, monkeypatch, capsys):
    """Where the host has none, and where what it is made of is not installed."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    assert main(["host", "ui", "onetrainer", "p.toml", "--root", "."]) == 2
    assert "this OneTrainer has no " in capsys.readouterr().err
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "train_ui.py").write_text("import no_such_package_as_this\n")
    assert main(["host", "ui", "onetrainer", "p.toml", "--root", "."]) == 2
    assert "window cannot be opened: No module named 'no_such_package_as_this'" in capsys.readouterr().err


def test_the_window_wants_prompts(tmp_path, monkeypatch, capsys):
    """Before it opens, and before the host is imported."""
    monkeypatch.chdir(tmp_path)
    assert main(["host", "ui", "onetrainer", "--root", "."]) == 2
    assert "a prompt file is needed" in capsys.readouterr().err
    assert main(["host", "ui", "onetrainer", "p.toml", "--root", "."]) == 2
    assert "p.toml: there is no such file" in capsys.readouterr().err
