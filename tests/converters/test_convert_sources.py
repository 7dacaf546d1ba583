"""Every kind of file that people have becomes the pairs that its own trainer makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from convert_results import Convert, Refused, Result
from leco_converters import Request, convert

from leco_plugin.config.build import load_prompts

GOLDEN = Path(__file__).parents[1] / "golden" / "convert"


def job(slider: str, process: str = "", kind: str = "slider") -> str:
    lines = "\n".join(f"        {line}" for line in slider.splitlines())
    return (
        f"job: train\nconfig:\n  name: age\n  process:\n    - type: {kind}\n      {process}\n      slider:\n{lines}\n"
    )


def sides(result: Result) -> list[tuple[str, str]]:
    """Both sides of each slider of a prompt file, in order."""
    enhanced = [pair for pair in result.pairs if pair.action == "enhance" and pair.multiplier > 0]
    return [(pair.positive, pair.unconditional) for pair in enhanced]


@pytest.mark.parametrize("case", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
@pytest.mark.parametrize("folder", [".", "elsewhere"])
def test_a_golden_source_becomes_its_pairs(case: Path, folder: str, tmp_path: Path):
    """Also in a folder from which the files that it names are elsewhere."""
    (tmp_path / folder).mkdir(exist_ok=True)
    target = tmp_path / folder / "prompts.toml"
    convert(Request(case / "source.yaml", target))
    pairs = [pair.model_dump(mode="json") for pair in load_prompts(target).pairs]
    assert pairs == json.loads((case / "expected.json").read_text())["pairs"]


def test_a_list_of_targets_is_a_slider_file(to_toml: Convert):
    """Entries with a target_class are sliders, without the job around them."""
    result = to_toml("- {target_class: person, positive: old, negative: young}\n")
    assert sides(result) == [("old", "young")]


def test_json_is_a_source_too(to_toml: Convert):
    """ai-toolkit takes its jobs as JSON as well."""
    text = json.dumps({"targets": [{"target_class": "a", "positive": "b"}]})
    assert len(to_toml(text, "source.json").pairs) == 2


def test_sizes_stay_height_first_and_the_report_says_so(to_toml: Convert):
    """ai-toolkit documents [width, height], and unpacks height, width."""
    result = to_toml(job("resolutions: [[512, 768]]\ntargets: [{positive: a}]"))
    assert {pair.resolution for pair in result.pairs} == {(512, 768)}
    (note,) = result.notes("config.process[0].slider.resolutions[0]")
    assert note.kind == "changed"
    assert "[height, width]" in note.done


def test_shuffled_phrases_are_written_out(to_toml: Convert):
    """Every order of one side with every order of the other."""
    result = to_toml(job("targets:\n  - {positive: 'a, b', negative: 'c ,d', shuffle: true}"))
    assert sides(result) == [("a, b", "c, d"), ("a, b", "d, c"), ("b, a", "c, d"), ("b, a", "d, c")]


def test_at_most_eight_orders_are_written_and_both_sides_vary(to_toml: Convert):
    """As many as ai-toolkit trains; it draws them at random."""
    found = sides(to_toml(job("targets:\n  - {positive: 'a, b, c', negative: 'd, e, f', shuffle: true}")))
    assert len(set(found)) == 8
    assert found[0] == ("a, b, c", "d, e, f")
    assert len({up for up, _ in found}) == len({down for _, down in found}) == 6


def test_the_hosts_prompt_file_never_becomes_neutrals(to_toml: Convert, tmp_path: Path):
    """Its text does not reach the loss there."""
    (tmp_path / "n.txt").write_text("one\ntwo\n")
    result = to_toml(job("prompt_file: n.txt\ntargets: [{positive: a, negative: b}]"))
    assert {pair.neutral for pair in result.pairs} == {""}
    assert "config.process[0].slider.prompt_file" in result.lost()


def test_several_processes_join_and_keep_their_own_defaults(to_toml: Convert):
    """One prompt file trains one LoRA; the report says that the job trained two."""
    second = "    - type: slider\n      slider: {resolutions: [[768, 768]], targets: [{positive: b}]}\n"
    result = to_toml(job("resolutions: [[512, 512]]\ntargets: [{positive: a}]") + second)
    assert [(pair.positive, pair.resolution[0]) for pair in result.pairs if pair.multiplier > 0] == [
        ("a", 512),
        ("b", 768),
    ]
    assert any("its own LoRA" in note.was for note in result.notes("config.process[1]"))


def test_a_concept_slider_starts_from_its_class(to_toml: Convert):
    """guidance_strength is the edit strength, target_class the neutral; what needs pictures is lost."""
    text = job(
        "guidance_strength: 2.5\npositive_prompt: old\nnegative_prompt: young\ntarget_class: person\nlow_ram: true",
        "datasets: [{folder_path: x}]",
        "concept_slider",
    )
    result = to_toml(text)
    pair = result.pairs[1]
    assert (pair.target, pair.positive, pair.unconditional) == ("person", "old", "young")
    assert (pair.neutral, pair.guidance_scale) == ("person", 2.5)
    assert {"config.process[0].slider.low_ram", "config.process[0].datasets"} <= set(result.lost())


def test_a_concept_slider_without_a_strength_has_that_of_its_trainer(to_toml: Convert):
    """3, which the report counts as added."""
    result = to_toml(job("positive_prompt: old\ntarget_class: person", kind="concept_slider"))
    assert {pair.guidance_scale for pair in result.pairs} == {3.0}
    assert any(note.kind == "added" for note in result.conversion.report.notes)


def test_a_process_that_needs_pictures_is_left_out_beside_a_slider(to_toml: Convert):
    """And alone it is refused."""
    result = to_toml(job("targets: [{positive: a}]") + "    - {type: concept_replacer}\n")
    assert len(result.pairs) == 2
    assert "config.process[1]" in result.lost()


@pytest.mark.parametrize("kind", ["concept_replacer", "sd_trainer", "image_reference_slider_trainer"])
def test_a_job_without_a_slider_is_refused(kind: str, refused: Refused):
    """The message names what the job has instead."""
    (problem,) = refused(job("targets: []", kind=kind))
    assert kind in problem.message


def test_the_name_of_the_job_stands_for_its_placeholder(to_toml: Convert):
    """ai-toolkit fills [name] in everywhere, prompts too."""
    result = to_toml(job("targets: [{positive: 'an [name]', negative: b}]"))
    assert sides(result) == [("an age", "b")]


def test_the_batch_size_of_the_run_is_that_of_every_prompt(to_toml: Convert):
    """ai-toolkit says it once for all, under train."""
    result = to_toml(job("targets: [{positive: a}]", "train: {batch_size: 3}"))
    assert {pair.batch_size for pair in result.pairs} == {3}


def test_a_leco_config_brings_its_prompt_file(to_toml: Convert, tmp_path: Path):
    """Whose list of prompts stands beside it."""
    (tmp_path / "prompts.yaml").write_text('- target: "van gogh"\n  resolution: 64\n')
    text = "prompts_file: ./prompts.yaml\npretrained_model: {name_or_path: a/b, v2: false}\nnetwork: {rank: 4}\n"
    (pair,) = to_toml(text).pairs
    assert (pair.target, pair.positive, pair.action, pair.resolution) == ("van gogh", "van gogh", "erase", (64, 64))


def test_our_own_job_gives_its_inline_prompts(to_toml: Convert):
    """The options beside them are settings of the run."""
    text = (
        "job: extension\nconfig:\n  name: n\n  process:\n    - type: leco\n      model: {name_or_path: builtin:tiny}\n"
        "      leco: {max_denoising_steps: 20, resolution: 64, targets: [{target_class: '', positive: a}]}\n"
    )
    result = to_toml(text)
    assert {pair.resolution for pair in result.pairs} == {(64, 64)}
    assert "config.process[0].leco.max_denoising_steps" in result.lost()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("targets:\n  - {target_class: a, positive: b}\nguidence_scale: 3\n", 3, "unknown key"),
        ("targets:\n  - target_class: a\n", 2, "needs a positive or a negative"),
        ("- target: a\n  resolution: 500\n", 2, "multiple of 8"),
        ("- target: a\n- b\n", 2, "must be a table"),
        ("a: 1\n", None, "no prompts"),
        ("", None, "no prompts"),
        ("5\n", None, "no settings file"),
        (job("targets: [{positive: a}]\nresolutions: [512, 512]"), 9, "two numbers"),
        (job("resolutions: [[512, 512]]"), 7, "no list of targets"),
        (job("targets: [{positive: a, multiplier: x}]"), 8, "must be a number"),
    ],
)
def test_what_cannot_be_converted_is_refused_at_its_line(text: str, line: int | None, message: str, refused: Refused):
    """With the names that the source gives its keys."""
    (problem,) = refused(text)
    assert problem.where
    assert problem.where.line == line
    assert message in problem.message


def test_an_error_names_the_key_as_the_source_does(refused: Refused):
    """Not as the prompt file would."""
    (problem,) = refused(job("targets:\n  - positive: a\n    weight: x"))
    assert problem.where
    assert problem.where.key == "config.process[0].slider.targets[0].weight"
