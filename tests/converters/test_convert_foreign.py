"""Settings of other trainers: every key of their schemas has a counterpart, asks for nothing, or is lost by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import foreign_keys as schemas
import pytest
import yaml
from convert_results import Convert, Refused
from leco_converters.foreign import ANY, ARCHITECTURES, CONCEPT_SLIDER, LECO, SLIDER, Row
from leco_converters.settings import SECTIONS, Settings, foreign_settings, refusal
from leco_converters.tree import Node

from leco_plugin.config.build import load_job
from leco_plugin.config.schema import JobConfig

SCHEMAS = {
    "": schemas.PROCESS, "network.": schemas.NETWORK, "train.": schemas.TRAIN, "model.": schemas.MODEL,
    "save.": schemas.SAVE, "logging.": schemas.LOGGING, "sample.": schemas.SAMPLE,
    "slider.": [*schemas.SLIDER, *schemas.CONCEPT],
}  # fmt: skip
PROMPTS = {"targets", "resolutions", "guidance_strength", "positive_prompt", "negative_prompt", "target_class"}
NAMES = {"type", "name", "process"}
OF_RUNS = {name: row for name, row in SLIDER.items() if not name.startswith("slider.")}
LOST = {name: row for name, row in OF_RUNS.items() if not row.to and ANY not in row.off}


def job(process: Mapping[str, object], kind: str = "slider", slider: object = None) -> str:
    """A job of ai-toolkit with these settings."""
    slider = slider or ({"targets": [{"positive": "a"}]} if kind == "slider" else {"positive_prompt": "a"})
    one = {"type": kind, "model": {"name_or_path": "m"}, **process, "slider": slider}
    return yaml.safe_dump({"job": "extension", "config": {"name": "n", "process": [one]}}, sort_keys=False)


def tree(settings: Mapping[str, object]) -> Node:
    """Nested tables of settings by dotted name."""
    root = Node({})
    for name, value in settings.items():
        *above, last = name.split(".")
        table = root
        for depth, part in enumerate(above):
            table = table.table.setdefault(part, Node({}, tuple(above[: depth + 1]), 1))
        table.table[last] = _nodes(value, tuple(name.split(".")))
    return root


def _nodes(value: object, key: tuple[str | int, ...]) -> Node:
    if isinstance(value, dict):
        return Node({name: _nodes(child, (*key, name)) for name, child in value.items()}, key, 1)
    if isinstance(value, list):
        return Node([_nodes(child, (*key, index)) for index, child in enumerate(value)], key, 1)
    return Node(value, key, 1)


def read(settings: Mapping[str, object], rows: Mapping[str, Row] = SLIDER) -> Settings:
    return foreign_settings(rows, tree(settings))


def about(name: str, settings: Settings) -> list[tuple[str, str]]:
    """What became of one setting."""
    return [(note.kind, note.was) for note in settings.report.notes if note.where.key == name]


def with_needs(name: str, row: Row, value: object) -> dict[str, object]:
    """A setting, with the one without which it asks for nothing."""
    needs, _, wanted = row.needs.replace("flow", "model.arch=flux").partition("=")
    if needs.startswith(f"{name}."):
        return {name: {needs.rpartition(".")[2]: True, "more": value} if value else value}
    above = with_needs(needs, SLIDER.get(needs, Row()), wanted or True) if needs else {}
    return {**above, name: value}


@pytest.mark.parametrize("prefix", SCHEMAS)
def test_every_key_of_the_schemas_of_ai_toolkit_is_in_the_table(prefix: str):
    """Or says which family the model is of, or is one of the prompts."""
    families = set(ARCHITECTURES) if prefix == "model." else set()
    known = families | (PROMPTS if prefix == "slider." else NAMES if not prefix else set())
    sections = {name.split(".")[0] for name in SLIDER if "." in name}
    missing = [
        key for key in SCHEMAS[prefix]
        if prefix + key not in SLIDER and key not in known and not (not prefix and key in sections)
        and not any(name.startswith(f"{prefix}{key}.") for name in SLIDER)
    ]  # fmt: skip
    assert missing == []


def test_every_key_of_the_schema_of_leco_is_in_the_table():
    """Which is that of Concept Sliders, too."""
    assert {f"{section}.{key}" for section, keys in schemas.LECO.items() for key in keys} <= LECO.keys()


@pytest.mark.parametrize("rows", [LECO, SLIDER], ids=["leco", "ai-toolkit"])
def test_a_counterpart_is_an_option_of_a_job(rows: Mapping[str, Row]):
    """And what its trainer takes by default is a value of it."""
    for row in rows.values():
        section, _, key = row.to.rpartition(".")
        if row.to:
            model = SECTIONS.get(section, JobConfig)
            assert key in model.model_fields
            assert row.default is None or not refusal(model, key, row.default)
        else:
            assert row.why


@pytest.mark.parametrize("name", OF_RUNS)
def test_what_asks_for_nothing_in_the_source_is_no_loss(name: str):
    """Each setting at each of its off values, and at nothing, an empty text, list or table."""
    row = SLIDER[name]
    switch = () if row.to or True in row.off else (False,)
    for value in (*row.off, *switch, None, "", [], {}):
        settings = read(with_needs(name, row, "anything" if value is ANY else value))
        assert about(name, settings) == [], value


@pytest.mark.parametrize("name", LOST)
def test_what_has_no_counterpart_is_lost_with_its_reason(name: str):
    """Where it asks for something; not where the setting that it belongs to is off."""
    row = SLIDER[name]
    assert about(name, read(with_needs(name, row, "strange"))) == [("lost", row.why)]
    if row.needs:
        assert read({name: "strange"}).report.notes == []


UI: dict[str, Any] = {
    "sqlite_db_path": "./aitk_db.db", "trigger_word": None, "performance_log_every": 10, "training_folder": "output",
    "device": "cuda",
    "network": {
        "type": "lora", "linear": 32, "linear_alpha": 32, "conv": 16, "conv_alpha": 16, "lokr_full_rank": True,
        "lokr_factor": -1, "network_kwargs": {"ignore_if_contains": []},
    },
    "save": {
        "dtype": "bf16", "save_every": 250, "max_step_saves_to_keep": 4, "save_format": "diffusers",
        "push_to_hub": False,
    },
    "train": {
        "batch_size": 1, "bypass_guidance_embedding": True, "steps": 3000, "gradient_accumulation": 1,
        "train_unet": True, "train_text_encoder": False, "gradient_checkpointing": True, "noise_scheduler": "ddpm",
        "optimizer": "adamw8bit", "timestep_type": "sigmoid", "content_or_style": "balanced",
        "optimizer_params": {"weight_decay": 1e-4}, "unload_text_encoder": False, "cache_text_embeddings": False,
        "lr": 1e-4, "ema_config": {"use_ema": False, "ema_decay": 0.99}, "skip_first_sample": False,
        "force_first_sample": False, "disable_sampling": False, "dtype": "bf16", "diff_output_preservation": False,
        "diff_output_preservation_multiplier": 1.0, "diff_output_preservation_class": "person",
        "switch_boundary_every": 1, "loss_type": "mse",
    },
    "logging": {"log_every": 1, "use_ui_logger": True},
    "model": {
        "name_or_path": "m", "quantize": True, "qtype": "qfloat8", "quantize_te": True, "qtype_te": "qfloat8",
        "arch": "sdxl", "low_vram": False, "model_kwargs": {}, "compile": False,
    },
    "sample": {
        "sampler": "ddpm", "sample_every": 250, "sample_start_step": 0, "width": 1024, "height": 1024,
        "samples": [{"prompt": "a woman"}, {"prompt": "a bear", "ctrl_img": None, "network_multiplier": 1}], "neg": "",
        "seed": 42, "walk_seed": True, "guidance_scale": 4, "sample_steps": 30, "num_frames": 1, "fps": 1,
    },
}  # fmt: skip
"""What the web UI of ai-toolkit writes."""
CONCEPT = {
    "guidance_strength": 3.0, "anchor_strength": 1.0, "positive_prompt": "happy", "negative_prompt": "sad",
    "target_class": "person", "anchor_class": None,
}  # fmt: skip


def test_a_job_of_the_web_ui_loses_its_pictures_alone(to_toml: Convert):
    """Its many defaults that mean off are silent; what has a counterpart is carried."""
    pictures = [{"folder_path": "x", "resolution": [768, 1024]}]
    result = to_toml(job({**UI, "datasets": pictures}, "concept_slider", CONCEPT), job=True)
    assert result.lost() == ["config.process[0].datasets"]
    loaded = load_job(result.conversion.written[1]).job
    assert (loaded.network.conv, loaded.model.is_xl) == (16, True)
    # ai-toolkit quantizes flow models alone
    assert not loaded.memory.fp8_base
    assert loaded.train.optimizer_params == {"weight_decay": 1e-4}
    assert [one.prompt for one in loaded.sample.samples] == ["a woman", "a bear"]
    assert {pair.resolution for pair in loaded.pairs} == {(768, 768), (1024, 1024)}


def test_the_noise_level_of_a_concept_slider_is_no_number_of_steps(to_toml: Convert):
    """999 there is the noisiest; as steps of a walk it would be hundreds of passes a step."""
    for train in ({}, {"max_denoising_steps": 999}):
        result = to_toml(job({"train": train}, "concept_slider"), job=True)
        assert load_job(result.conversion.written[1]).job.leco.max_denoising_steps == 40
        assert result.lost() == []
    assert CONCEPT_SLIDER["train.max_denoising_steps"].why
    assert to_toml(job({"train": {"max_denoising_steps": 500}}, "concept_slider"), job=True).lost()


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"arch": "zimage:turbo"}, "Z-Image"), ({"arch": "flux"}, "FLUX.1"), ({"arch": "qwen_image"}, "Qwen-Image"),
        ({"is_flux": True}, "FLUX.1"), ({"is_v3": True}, "Stable Diffusion 3"), ({"is_auraflow": True}, "AuraFlow"),
    ],
)  # fmt: skip
def test_a_family_of_flow_models_is_carried(model: dict[str, object], named: str, to_toml: Convert, refused: Refused):
    """Without samplers and convolutions, which it has not; sd-scripts' command line does not train it."""
    process = {
        "model": {"name_or_path": "m", **model},
        "train": {"noise_scheduler": "flowmatch"},
        "network": {"conv": 4},
    }
    result = to_toml(job(process), job=True)
    assert any(named in note.was for note in result.conversion.report.notes if note.where.key.endswith(tuple(model)))
    assert not [key for key in result.lost() if "slider" not in key]
    loaded = load_job(result.conversion.written[1]).job
    assert (loaded.model.name_or_path, loaded.network.conv) == ("m", None)
    (problem,) = refused(job(process), "b.yaml", flags=True)
    assert named in problem.message


@pytest.mark.parametrize(
    "model", [{"arch": "wan21:1b"}, {"arch": "flex1"}, {"is_pixart": True}, {"arch": "krea2:o_edit"}]
)
def test_a_family_that_is_not_trained_here_is_refused_in_one_sentence(
    model: dict[str, object], to_toml: Convert, refused: Refused
):
    """At its key, before anything is downloaded; its prompts alone can be converted."""
    text = job({"model": {"name_or_path": "m", **model}})
    (problem,) = refused(text, job=True)
    assert problem.where
    assert problem.where.key == f"config.process[0].model.{next(iter(model))}"
    assert "trained here" in problem.message
    assert to_toml(text).pairs


@pytest.mark.parametrize(("arch", "option"), [("sdxl", "is_xl"), ("sd2", "is_v2"), ("sd15", None)])
def test_a_family_of_stable_diffusion_is_said_in_the_job(arch: str, option: str | None, to_toml: Convert):
    """As is_xl or is_v2, which the trainer checks against the model."""
    result = to_toml(job({"model": {"name_or_path": "m", "arch": arch}}), job=True)
    model = load_job(result.conversion.written[1]).job.model
    assert [name for name in ("is_xl", "is_v2") if getattr(model, name)] == ([option] if option else [])


def leco_config(tmp_path: Path, text: str) -> str:
    (tmp_path / "prompts.yaml").write_text("- target: van gogh\n")
    return f"prompts_file: prompts.yaml\npretrained_model: {{name_or_path: m}}\n{text}"


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("full", ("all", (), ())), ("innoxattn", ("noxattn", (), ())), ("noxattn", ("noxattn", (), ())),
        ("xattn-strict", ("xattn", (), ("to_out",))), ("noxattn-hspace", ("noxattn", ("mid_block",), ())),
        ("noxattn-hspace-last", ("noxattn", ("mid_block.resnets.1.conv2",), ())),
    ],
)  # fmt: skip
def test_training_methods_have_counterparts(method: str, wanted: tuple[str, ...], to_toml: Convert, tmp_path: Path):
    """Of LECO and of Concept Sliders; nothing is lost, and never are all layers trained instead."""
    text = leco_config(tmp_path, f"network: {{type: c3lier, training_method: {method}}}\n")
    result = to_toml(text, job=True)
    network = load_job(result.conversion.written[1]).job.network
    assert (network.layers, network.only_if_contains, network.ignore_if_contains) == wanted
    assert result.lost() == []


def test_lierla_without_cross_attention_is_said_to_be_another_choice_here(to_toml: Convert, tmp_path: Path):
    """Theirs is self-attention alone."""
    result = to_toml(leco_config(tmp_path, "network: {training_method: noxattn}\n"), job=True)
    assert any("selfattn" in note.was for note in result.notes("network.training_method"))


def test_the_arguments_of_an_optimizer_are_carried_to_the_job_and_the_command_line(to_toml: Convert, tmp_path: Path):
    """LECO writes them as one text."""
    text = leco_config(tmp_path, 'network: {rank: 4}\ntrain: {optimizer_args: "weight_decay=0.1 betas=0.9,0.99"}\n')
    result = to_toml(text, job=True, flags=True)
    train = load_job(result.conversion.written[1]).job.train
    assert train.optimizer_params == {"weight_decay": 0.1, "betas": (0.9, 0.99)}
    assert result.conversion.flags.endswith("--optimizer_args weight_decay=0.1 betas=0.9,0.99")
    assert to_toml(text.replace("weight_decay=0.1 betas=0.9,0.99", ""), job=True).lost() == []


@pytest.mark.parametrize("section", ["train", "save", "logging", "other"])
def test_an_empty_section_is_an_absent_one(section: str, to_toml: Convert, tmp_path: Path):
    """LECO's defaults are written out in both cases."""
    with_it = to_toml(leco_config(tmp_path, f"network: {{rank: 4}}\n{section}:\n"), job=True)
    job_text = with_it.conversion.written[1].read_text()
    without = to_toml(leco_config(tmp_path, "network: {rank: 4}\n"), job=True)
    assert without.conversion.written[1].read_text() == job_text
    assert with_it.lost() == []
    assert load_job(with_it.conversion.written[1]).job.train.steps == 500


@pytest.mark.parametrize("process", [{"network": {"rank": 8, "alpha": 0}}, {"network": {"alpha": 0, "linear": 8}}])
def test_an_alpha_of_0_is_the_rank(process: dict[str, object], to_toml: Convert):
    """As in both trainers: no scaling, not no effect."""
    result = to_toml(job(process), job=True)
    assert load_job(result.conversion.written[1]).job.network.linear_alpha == 8
    assert not [key for key in result.lost() if "network" in key]


def test_of_two_names_of_one_setting_the_one_that_its_trainer_reads_counts(to_toml: Convert):
    """Rank before linear in ai-toolkit; the report says so."""
    result = to_toml(job({"network": {"linear": 4, "rank": 8}}), job=True)
    assert load_job(result.conversion.written[1]).job.network.linear == 8
    assert any("network.rank counts" in note.was for note in result.conversion.report.notes)


def test_pictures_that_are_off_or_said_twice_are_drawn_as_there(to_toml: Convert):
    """None between the first and the last; of two lists the one that ai-toolkit reads."""
    sample = {"sample_every": 0, "prompts": ["a"], "samples": [{"prompt": "b"}]}
    loaded = load_job(to_toml(job({"train": {"steps": 70}, "sample": sample}), job=True).conversion.written[1]).job
    assert (loaded.sample.sample_every, [one.prompt for one in loaded.sample.asked]) == (70, ["b"])


def test_published_prompts_of_concept_sliders_are_carried_on_with_one_note(to_toml: Convert):
    """Their own trainer ignores guidance and rank, too; as guidance_scale they would train four times as strong."""
    entry = "- {target: a, positive: b, unconditional: c, neutral: a, guidance: 4, rank: 4, action: enhance}\n"
    result = to_toml(entry * 10)
    (note,) = result.conversion.report.notes
    assert (note.kind, note.where.line) == ("changed", 1)
    assert "does not read" in note.was
    assert {pair.guidance_scale for pair in result.pairs} == {1.0}


def test_what_the_trainer_for_sdxl_has_no_flag_for_is_lost_by_name(to_toml: Convert):
    """v_parameterization and clip_skip never vanish without a line."""
    text = (
        "job: extension\nconfig:\n  name: n\n  process:\n    - type: leco\n      model: {name_or_path: m, is_xl: true, "
        "is_v_pred: true, clip_skip: 2}\n      leco: {target_class: a, positive: b}\n"
    )
    lost = to_toml(text, flags=True).lost()
    assert {"config.process[0].model.is_v_pred", "config.process[0].model.clip_skip"} <= set(lost)


def test_a_config_that_does_not_say_whether_it_is_for_sdxl_gets_the_command_with_a_note(
    to_toml: Convert, tmp_path: Path
):
    """LECO's scripts say it, not its configs."""
    report = to_toml(leco_config(tmp_path, "network: {rank: 4}\n"), flags=True).conversion.report
    assert any("whether the model is SDXL" in note.was for note in report.notes)


@pytest.mark.parametrize("kind", ["slider", "concept_slider"])
def test_every_line_about_a_loss_names_its_key(kind: str, to_toml: Convert):
    """Also about what only the command line lacks."""
    slider = CONCEPT if kind == "concept_slider" else None
    report = to_toml(job({**UI, "datasets": [{}], "strange": 1}, kind, slider), job=True, flags=True).conversion.report
    assert all(note.where.key and note.where.line for note in report.notes if note.kind == "lost")
    assert any(note.where.key.endswith(".strange") for note in report.notes)


def test_the_settings_of_sd_scripts_are_answered_with_their_own_command(refused: Refused):
    """They are no LECO config, though they name a prompts_file."""
    text = 'pretrained_model_name_or_path = "m"\nprompts_file = "p.toml"\noutput_name = "x"\nmax_train_steps = 4\n'
    (problem,) = refused(text, "settings.toml")
    assert "settings file of sd-scripts" in problem.message
    assert "train_leco --config_file" in problem.message
