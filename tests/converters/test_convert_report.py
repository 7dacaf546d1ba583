"""Nothing is lost in silence: the report names each key, what it was, and what was done about it."""

from __future__ import annotations

import pytest
from convert_results import Convert

FULL = """
job: train
config:
  name: n
  training_folder: out
  process:
    - type: slider
      train: {steps: 10, lr: 1e-4, ema_config: {use_ema: true}}
      network: {type: c3lier, linear: 8, conv: 4}
      model: {name_or_path: a/b, is_xl: true}
      datasets: [{folder_path: x}]
      slider:
        anchors: [{prompt: c, neg_prompt: d}]
        prompt_tensors: t.safetensors
        batch_full_slide: true
        low_ram: false
        use_adapter: depth
        adapter_img_dir: d
        strange: 1
        targets:
          - {target_class: a, positive: b, shuffle: false, colour: red}
"""
SLIDER = "config.process[0].slider"


def test_every_key_without_a_counterpart_is_named(to_toml: Convert):
    """Those of the prompts, and with a job those of the run."""
    lost = set(to_toml(FULL, job=True).lost())
    names = ["anchors[0].neg_prompt", "prompt_tensors", "batch_full_slide", "use_adapter", "adapter_img_dir", "strange"]
    assert {f"{SLIDER}.{name}" for name in names} <= lost
    assert f"{SLIDER}.targets[0].colour" in lost
    run = ["train.ema_config", "datasets"]
    assert {f"config.process[0].{name}" for name in run} <= lost


def test_a_note_says_where_what_and_what_was_done(to_toml: Convert):
    """For people and as fields."""
    (note,) = to_toml(FULL).notes(f"{SLIDER}.prompt_tensors")
    assert (note.where.line, note.kind) == (14, "lost")
    assert "encoded prompts" in note.was
    assert "left out" in note.done
    fields = note.fields()
    assert (fields["key"], fields["line"], fields["kind"]) == (f"{SLIDER}.prompt_tensors", 14, "lost")


def test_a_setting_that_says_what_is_so_anyway_is_no_loss(to_toml: Convert):
    """low_ram false, shuffle false."""
    result = to_toml(FULL)
    for key in (f"{SLIDER}.low_ram", f"{SLIDER}.targets[0].shuffle"):
        assert [note.kind for note in result.notes(key)] == ["changed"]


def test_the_fixed_strength_and_neutral_are_written_out(to_toml: Convert):
    """ai-toolkit's slider has neither; the report says that both are new, and that the walk differs."""
    result = to_toml(FULL)
    assert "guidance_scale = 1.0" in result.text
    assert 'neutral = ""' in result.text
    notes = " ".join(f"{note.was} {note.done}" for note in result.notes(SLIDER))
    assert "guidance_scale and neutral" in notes
    assert "LoRA off" in notes


def test_defaults_of_the_other_trainer_are_written_out(to_toml: Convert):
    """max_denoising_steps is 999 where ai-toolkit's file is silent."""
    result = to_toml(FULL, job=True)
    job = result.conversion.written[1].read_text()
    assert "max_denoising_steps: 999" in job
    assert any("max_denoising_steps" in note.was and note.kind == "added" for note in result.conversion.report.notes)


def test_settings_of_the_run_are_lost_without_a_job_file(to_toml: Convert):
    """And the report says how to keep them."""
    (note,) = to_toml(FULL).notes("config.process[0].train")
    assert note.kind == "lost"
    assert "--job" in note.done


def test_strict_writes_nothing_where_anything_is_lost(to_toml: Convert):
    """And everything where nothing is."""
    result = to_toml(FULL, strict=True)
    assert not result.conversion.written
    assert result.conversion.report.lost
    assert to_toml("- target: a\n", strict=True).conversion.written


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("guidance_scale = 2.0", "guidance_scale"),
        ('neutral = "x"', "neutral"),
        ('neutrals = ["a", "b"]', "neutrals"),
        ("dynamic_resolution = true", "dynamic_resolution"),
        ("dynamic_crops = true", "dynamic_crops"),
    ],
)
def test_what_ai_toolkit_cannot_say_is_lost_by_name(line: str, key: str, to_yaml: Convert):
    """And kept as a comment in the job."""
    result = to_yaml(f'{line}\n[[targets]]\ntarget_class = "a"\npositive = "b"\n')
    assert result.lost() == [key]
    assert f"# {key}:" in result.text


def test_sizes_of_single_entries_are_lost_in_a_slider_job(to_yaml: Convert):
    """All its targets share one list."""
    entry = '[[targets]]\ntarget_class = "a"\npositive = "b"\n'
    result = to_yaml(f"{entry}resolution = 512\n{entry}resolution = 64\n{entry}batch_size = 2\nresolution = 512\n")
    assert result.lost() == ["targets[1]", "targets[2]", "targets[2]"]
    assert "resolutions: [[512, 512], [64, 64]]" in result.text


def test_a_prompt_becomes_a_slider_and_the_report_says_so(to_yaml: Convert):
    """ai-toolkit trains the other direction as well."""
    result = to_yaml('[[prompts]]\ntarget = "van gogh"\n')
    (note,) = result.notes("prompts[0]")
    assert note.kind == "changed"
    assert 'positive: ""' in result.text
    assert 'negative: "van gogh"' in result.text


def test_many_notes_of_one_kind_are_counted(to_toml: Convert):
    """A console shows five of them; a program gets all."""
    entries = "".join(f"        - {{positive: a{index}, colour: red}}\n" for index in range(20))
    text = f"job: train\nconfig:\n  process:\n    - type: slider\n      slider:\n        targets:\n{entries}"
    report = to_toml(text).conversion.report
    assert sum(note.where.key.endswith(".colour") for note in report.notes) == 20
    shown = [line for line in report.lines() if ".colour" in line]
    assert len(shown) == 6
    assert "15 more like it" in shown[-1]
