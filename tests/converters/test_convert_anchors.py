"""`anchors` of ai-toolkit are `preserve` here, and the report says what that changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from convert_results import Convert, Refused
from leco_converters import Request, convert

from leco_plugin.config.build import load_job, load_prompts

SLIDER = "config.process[0].slider"
TARGET = "targets: [{target_class: a, positive: b}]"
KEPT = 'preserve = ["dog", "cat"]\n'
ENTRY = '[[targets]]\ntarget_class = "a"\npositive = "b"\n'


def job(*sliders: str, kind: str = "slider") -> str:
    processes = "".join(f"    - {{type: {kind}, slider: {{{slider}}}}}\n" for slider in sliders)
    return f"job: train\nconfig:\n  name: n\n  process:\n{processes}"


def our_job(leco: str) -> str:
    return (
        "job: extension\nconfig:\n  name: n\n  process:\n    - type: leco\n"
        f"      model: {{name_or_path: 'builtin:tiny'}}\n      leco: {{{leco}}}\n"
    )


def lost_prompts(lost: list[str]) -> list[str]:
    """Without the settings of the run, which only a job file can hold."""
    return [key for key in lost if key.startswith(SLIDER)]


def test_the_prompts_of_anchors_are_preserved_in_order_and_once(to_toml: Convert):
    """One note: they have an effect now. An anchor without a prompt has the empty one, as in ai-toolkit."""
    anchors = "[{prompt: dog, multiplier: 1.0}, {prompt: 5, neg_prompt: ''}, {prompt: dog}, {}]"
    result = to_toml(job(f"anchors: {anchors}, {TARGET}"))
    assert 'preserve = ["dog", "5", ""]\n' in result.text
    (note,) = result.notes(f"{SLIDER}.anchors")
    assert (note.kind, note.where.line) == ("changed", 5)
    assert "never uses" in note.was
    assert "has an effect" in note.done
    assert lost_prompts(result.lost()) == []


@pytest.mark.parametrize("entry", ["neg_prompt: fur", "multiplier: 0.5", "strange: 1"])
def test_what_else_an_anchor_says_is_lost_by_name(entry: str, to_toml: Convert):
    """And kept as a comment."""
    name = entry.split(":")[0]
    result = to_toml(job(f"anchors: [{{prompt: dog, {entry}}}], {TARGET}"))
    assert result.preserve == ("dog",)
    assert lost_prompts(result.lost()) == [f"{SLIDER}.anchors[0].{name}"]
    assert f"# {name}: " in result.text


def test_an_anchor_that_is_a_target_is_lost(to_toml: Convert):
    """Of any process, since their targets join; what is to change cannot stay."""
    first = f"anchors: [{{prompt: a}}, {{prompt: c}}, {{prompt: d}}], {TARGET}"
    result = to_toml(job(first, "targets: [{target_class: c, positive: e}]"))
    assert result.preserve == ("d",)
    assert lost_prompts(result.lost()) == [f"{SLIDER}.anchors[0]", f"{SLIDER}.anchors[1]"]
    assert '# anchors:\n#   prompt: "c"\n' in result.text


def test_anchors_that_are_all_targets_leave_nothing_to_preserve(to_toml: Convert):
    """They stand in the file as a comment, and no note says that they have an effect."""
    result = to_toml(job(f"anchors: [{{prompt: a}}], {TARGET}"))
    assert result.preserve == ()
    assert '# anchors:\n#   prompt: "a"\n' in result.text
    assert not result.notes(f"{SLIDER}.anchors")


@pytest.mark.parametrize("anchors", ["", "[]"])
def test_no_anchors_are_no_loss(anchors: str, to_toml: Convert):
    """Many files have the key with all its anchors commented out."""
    result = to_toml(f"{TARGET}\nanchors: {anchors}\n")
    assert [note.kind for note in result.notes("anchors")] == ["changed"]
    assert result.lost() == []


@pytest.mark.parametrize(("anchors", "key"), [("dog", ""), ("[dog]", "[0]"), ("[{prompt: [dog]}]", "[0]")])
def test_what_is_no_list_of_anchors_is_lost(anchors: str, key: str, to_toml: Convert):
    """ai-toolkit would stop at it."""
    result = to_toml(f"{TARGET}\nanchors: {anchors}\n")
    assert result.lost() == [f"anchors{key}"]


def test_anchors_of_several_processes_join(to_toml: Convert):
    """Like their targets: each prompt once."""
    other = "anchors: [{prompt: cat}, {prompt: dog}], targets: [{positive: c}]"
    assert to_toml(job(f"anchors: [{{prompt: dog}}], {TARGET}", other)).preserve == ("dog", "cat")


@pytest.mark.parametrize("below", ["", "slider: "])
def test_a_prompt_file_may_have_anchors_beside_what_it_preserves(below: str, to_toml: Convert):
    """In the YAML forms that have no job around them."""
    slider = f"{{anchors: [{{prompt: dog}}], preserve: [5, dog], {TARGET}}}"
    assert to_toml(f"{{{below}{slider}}}" if below else slider).preserve == ("5", "dog")


def test_the_anchor_class_of_a_concept_slider_is_preserved(to_toml: Convert):
    """It is held at both ends there too; how much is said by a job here, in other units."""
    slider = "target_class: a, positive_prompt: b, anchor_class: dog, anchor_strength: 2"
    result = to_toml(job(slider, kind="concept_slider"))
    assert result.preserve == ("dog",)
    assert [note.kind for note in result.notes(f"{SLIDER}.anchor_class")] == ["changed"]
    (note,) = result.notes(f"{SLIDER}.anchor_strength")
    assert note.kind == "lost"
    assert "preserve_weight" in note.was


@pytest.mark.parametrize(("anchor", "kind"), [("a", "lost"), ("null", "changed")])
def test_an_anchor_class_that_keeps_nothing_is_left_out(anchor: str, kind: str, to_toml: Convert):
    """The class that is to change, which is a loss, or none."""
    slider = f"target_class: a, positive_prompt: b, anchor_class: {anchor}"
    result = to_toml(job(slider, kind="concept_slider"))
    assert result.preserve == ()
    assert [note.kind for note in result.notes(f"{SLIDER}.anchor_class")] == [kind]
    assert "# anchor_class: " in result.text


def test_what_a_prompt_file_preserves_becomes_anchors(to_yaml: Convert):
    """And the report says that ai-toolkit does not use them."""
    result = to_yaml(KEPT + ENTRY)
    slider = yaml.safe_load(result.text)["config"]["process"][0]["slider"]
    assert slider["anchors"] == [{"prompt": "dog"}, {"prompt": "cat"}]
    (note,) = result.notes("preserve")
    assert (note.kind, note.where.line) == ("changed", 1)
    assert "no effect" in note.was


def test_an_anchor_with_the_placeholder_of_ai_toolkit_is_reported(to_yaml: Convert):
    """Like the texts of its targets."""
    report = to_yaml(f'preserve = ["[name]"]\n{ENTRY}').conversion.report
    assert any("changed by the trainer" in note.done for note in report.notes)


@pytest.mark.parametrize("below", [False, True])
def test_our_own_job_preserves_what_its_prompt_file_did(below: bool, to_yaml: Convert):
    """Also below slider, and also the empty prompt."""
    text = KEPT.replace("cat", "") + ENTRY
    result = to_yaml("[slider]\n" + text.replace("[[", "[[slider.") if below else text, to="leco-job")
    assert load_job(result.path).job.leco.preserve == ("dog", "")
    assert result.lost() == []


@pytest.mark.parametrize(
    ("leco", "wanted"),
    [
        ("preserve: [dog], target_class: a, positive: b", ("dog",)),
        ("preserve: [dog], slider: {preserve: [cat, dog], target_class: a, positive: b}", ("dog", "cat")),
        ("preserve: [dog], prompts_file: p.toml", ("dog", "cat")),
        ("prompts_file: p.toml", ("dog", "cat")),
    ],
)
def test_what_a_job_preserves_goes_into_the_prompt_file(leco: str, wanted: tuple[str, ...], tmp_path: Path):
    """Which can hold it, so nothing is left for the job; each prompt once."""
    (tmp_path / "p.toml").write_text(KEPT + ENTRY)
    source = tmp_path / "a.yaml"
    source.write_text(our_job(leco))
    assert load_job(source).job.leco.preserve == wanted
    result = convert(Request(source, tmp_path / "b.toml", job=True, strict=True))
    assert not result.report.notes
    assert load_prompts(tmp_path / "b.toml").preserve == wanted
    assert load_job(tmp_path / "b_job.yaml").job == load_job(source).job


def test_the_command_line_is_said_to_need_our_own_trainers(to_toml: Convert):
    """Those of sd-scripts would not read the key."""
    result = to_toml(job(f"anchors: [{{prompt: dog}}], {TARGET}"), flags=True)
    assert any("sd-scripts' own trainers" in note.was for note in result.notes(f"{SLIDER}.anchors"))


def test_a_target_that_a_yaml_prompt_file_preserves_is_refused(refused: Refused):
    """At its place there: it is no anchor, but a contradiction."""
    (problem,) = refused(f"{TARGET}\npreserve: [a]\n")
    assert problem.where
    assert (problem.where.line, problem.where.key) == (2, "preserve[0]")
