"""Prompt files become the pairs that sd-scripts makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from leco_plugin.config.build import LoadedPrompts, load_prompts
from leco_plugin.config.schema import PromptPair
from leco_plugin.errors import ConfigError

ReadToml = Callable[[str], LoadedPrompts]
GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
SLIDER = 'target_class = "c"\npositive = "p"\nnegative = "n"\n'


def prompts(pair: PromptPair) -> tuple[str, str, str, str]:
    return pair.target, pair.positive, pair.unconditional, pair.neutral


def neutrals(loaded: LoadedPrompts) -> list[str]:
    return list(dict.fromkeys(pair.neutral for pair in loaded.pairs))


def keys_of_warnings(loaded: LoadedPrompts) -> list[str]:
    return [warning.where.key for warning in loaded.warnings if warning.where]


@pytest.mark.parametrize("case", sorted(folder.name for folder in GOLDEN.iterdir()))
def test_a_golden_file_gives_the_recorded_pairs(case: str):
    """What sd-scripts' own loader gave for the file, in its order, or a refusal."""
    expected = json.loads((GOLDEN / case / "expected.json").read_text(encoding="utf-8"))
    if expected.get("error"):
        with pytest.raises(ConfigError):
            load_prompts(GOLDEN / case / "prompts.toml")
        return
    loaded = load_prompts(GOLDEN / case / "prompts.toml")
    assert [pair.model_dump(mode="json") for pair in loaded.pairs] == expected["pairs"]


def test_a_slider_with_both_sides_gives_four_pairs(read_toml: ReadToml):
    """Both directions at +m, then both at -m."""
    loaded = read_toml(f"[[targets]]\n{SLIDER}multiplier = 0.5\n")
    assert [(pair.positive, pair.unconditional, pair.action, pair.multiplier) for pair in loaded.pairs] == [
        ("n", "p", "erase", 0.5),
        ("p", "n", "enhance", 0.5),
        ("p", "n", "erase", -0.5),
        ("n", "p", "enhance", -0.5),
    ]
    assert not loaded.warnings


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ('positive = "p"', [("p", "", "enhance", 1.0), ("p", "", "erase", -1.0)]),
        ('negative = "n"', [("n", "", "erase", 1.0), ("n", "", "enhance", -1.0)]),
        ('positive = " "\nnegative = "n"', [("n", "", "erase", 1.0), ("n", "", "enhance", -1.0)]),
        ('positive = "p"\nnegative = "\\t"', [("p", "", "enhance", 1.0), ("p", "", "erase", -1.0)]),
    ],
)
def test_a_slider_with_one_side_gives_two_pairs(read_toml: ReadToml, sides: str, expected: list[object]):
    """A blank side counts as absent, and the other is measured against the empty prompt."""
    loaded = read_toml(f'[[targets]]\ntarget_class = "c"\n{sides}\n')
    assert [(pair.positive, pair.unconditional, pair.action, pair.multiplier) for pair in loaded.pairs] == expected


def test_omitted_positive_is_the_target_and_omitted_neutral_the_unconditional(read_toml: ReadToml):
    """An empty text is not omitted."""
    loaded = read_toml('[[prompts]]\ntarget = "t"\nunconditional = "u"\n[[prompts]]\ntarget = "t"\npositive = ""\n')
    assert [prompts(pair) for pair in loaded.pairs] == [("t", "t", "u", "u"), ("t", "", "", "")]


def test_top_values_are_defaults_of_every_prompt(read_toml: ReadToml):
    """Also target, positive, unconditional, neutral and action."""
    top = 'target = "T"\npositive = "P"\nunconditional = "U"\nneutral = "N"\naction = "enhance"\n'
    loaded = read_toml(top + '[[prompts]]\nbatch_size = 2\n[[prompts]]\ntarget = "t"\naction = "erase"\n')
    assert [prompts(pair) for pair in loaded.pairs] == [("T", "P", "U", "N"), ("t", "P", "U", "N")]
    assert [pair.action for pair in loaded.pairs] == ["enhance", "erase"]
    assert [pair.batch_size for pair in loaded.pairs] == [2, 1]


def test_a_slider_in_prompts_sees_its_own_neutral_only(read_toml: ReadToml):
    """The neutral at the top does not reach it, and a warning says so."""
    loaded = read_toml(f'neutral = "top"\n[[prompts]]\n{SLIDER}')
    assert neutrals(loaded) == [""]
    assert keys_of_warnings(loaded) == ["neutral"]
    assert neutrals(read_toml(f'[[prompts]]\n{SLIDER}neutral = "own"\n')) == ["own"]


def test_the_first_target_decides_what_all_are(read_toml: ReadToml):
    """With a target they are prompts, whose defaults are the prompt keys at the top."""
    loaded = read_toml('unconditional = "u"\n[[targets]]\ntarget = "a"\n[[targets]]\npositive = "x"\ntarget = "b"\n')
    assert [prompts(pair) for pair in loaded.pairs] == [("a", "a", "u", "u"), ("b", "x", "u", "u")]


def test_a_file_may_be_one_flat_table(read_toml: ReadToml):
    """One prompt or one slider, without a heading."""
    assert prompts(read_toml('target = "t"\n').pairs[0]) == ("t", "t", "", "")
    assert len(read_toml(SLIDER).pairs) == 4
    assert len(read_toml(f"[slider]\n{SLIDER}").pairs) == 4
    assert len(read_toml('[slider]\ntarget = "t"\n').pairs) == 1


@pytest.fixture
def neutral_files(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("n1\n\n n2 \n", encoding="utf-8")
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfp1\r\n")
    (tmp_path / "empty.txt").write_text("\n  \n", encoding="utf-8")


LISTS = 'neutrals = ["l"]\nneutral_prompt_file = "n.txt"\nprompt_file = "p.txt"\n'


@pytest.mark.usefixtures("neutral_files")
@pytest.mark.parametrize(
    ("top", "own", "expected"),
    [
        (LISTS, "", ["l", "n1", "n2", "p1"]),
        (LISTS, 'neutral = "o"', ["o"]),
        (LISTS, 'neutral = ""', [""]),
        (LISTS, 'prompt_file = "p.txt"\nneutral = "o"', ["p1"]),
        (LISTS, 'prompt_file = "p.txt"\nneutral_prompt_file = "n.txt"', ["n1", "n2"]),
        (LISTS, 'neutrals = ["x", ""]\nprompt_file = "p.txt"', ["x", ""]),
        ('neutral = "N"', "", ["N"]),
        ('neutral = "N"', 'neutral = "o"', ["o"]),
        ('neutral = "N"\nneutrals = []', "", ["N"]),
        ('neutral = "N"', "neutrals = []", ["N"]),
        ('neutral = "N"', 'neutrals = []\nneutral = "o"', ["o"]),
        ('neutral = "N"', 'neutral_prompt_file = "empty.txt"', ["N"]),
        ("", 'neutrals = [" a ", ""]', [" a ", ""]),
        ("", "", [""]),
    ],
)
def test_neutrals_add_up_at_the_top_and_replace_on_an_entry(
    read_toml: ReadToml, top: str, own: str, expected: list[str]
):
    """At the top all lists add up; on an entry the first one wins; an empty one gives way to the single neutral."""
    assert neutrals(read_toml(f"{top}\n[[targets]]\n{SLIDER}{own}\n")) == expected


@pytest.mark.usefixtures("neutral_files")
def test_in_a_flat_file_the_first_list_of_neutrals_wins(read_toml: ReadToml):
    """The others are named in a warning each."""
    loaded = read_toml(SLIDER + LISTS + 'neutral = "x"\n')
    assert neutrals(loaded) == ["l"]
    assert keys_of_warnings(loaded) == ["neutral_prompt_file", "prompt_file", "neutral"]


@pytest.mark.parametrize(
    ("top", "own", "expected"),
    [
        ("resolution = 768", "", [(768, 768)]),
        ("resolution = 768", "resolution = [512, 64]", [(512, 64)]),
        ("resolution = 768", "resolution = 512.0", [(512, 512)]),
        ("", "resolution = [[512, 512], [768, 512]]", [(512, 512), (768, 512)]),
        ("", "resolutions = [[512, 512], [768, 512]]\nresolution = 64", [(512, 512), (768, 512)]),
        ("resolutions = [[64, 128]]", "resolution = 512", [(64, 128)]),
        ("resolutions = [64, 128]", "", [(64, 128)]),
        ("", "resolutions = 64", [(64, 64)]),
    ],
)
def test_resolutions_win_over_resolution(read_toml: ReadToml, top: str, own: str, expected: list[tuple[int, int]]):
    """Even inherited ones; a flat pair of numbers is one size, height first."""
    loaded = read_toml(f"{top}\n[[targets]]\n{SLIDER}{own}\n")
    assert list(dict.fromkeys(pair.resolution for pair in loaded.pairs)) == expected
    assert len(loaded.pairs) == 4 * len(expected)


def test_neutrals_are_outermost_then_sizes_then_pairs(read_toml: ReadToml):
    """The order in which training and preview number the pairs."""
    loaded = read_toml(
        '[[targets]]\ntarget_class = ""\npositive = "p"\nneutrals = ["a", "b"]\nresolutions = [[64, 64], [128, 64]]\n'
    )
    order = [(pair.neutral, pair.resolution[0], pair.multiplier) for pair in loaded.pairs]
    expected = [(neutral, height, sign) for neutral in "ab" for height in (64, 128) for sign in (1.0, -1.0)]
    assert order == expected


def test_an_item_of_several_sizes_may_be_a_plain_number(tmp_path: Path):
    """In YAML; sd-scripts' TOML parser wants all items of one kind."""
    path = tmp_path / "x.yaml"
    path.write_text("targets:\n- {target_class: c, positive: p, resolutions: [[512, 64], 768]}\n")
    assert [pair.resolution for pair in load_prompts(path).pairs] == [(512, 64)] * 2 + [(768, 768)] * 2
    path = tmp_path / "x.toml"
    path.write_text('[[targets]]\ntarget_class = "c"\npositive = "p"\nresolutions = [[512, 64], 768]\n')
    (warning,) = load_prompts(path).warnings
    assert "sd-scripts cannot read this file" in warning.message


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ('[[prompts]]\ntarget = "a"\nweight = 0\n', "prompts[0].weight", 3),
        ('weight = -1\n[[prompts]]\ntarget = "a"\n', "weight", 1),
        ('[[prompts]]\ntarget = "a"\nguidance_scale = 0\n', "prompts[0].guidance_scale", 3),
        ('[[prompts]]\ntarget = "a"\nmultiplier = 0.0\n', "prompts[0].multiplier", 3),
        ('[[prompts]]\ntarget = "a"\nunconditional = "a"\n', "prompts[0].unconditional", 3),
        ('[[prompts]]\ntarget = ""\n', "prompts[0]", 1),
        ('[[prompts]]\ntarget = "a"\nresolution = [64, 128]\ndynamic_resolution = true\n',
         "prompts[0].dynamic_resolution", 4),
        ('[[targets]]\npositive = "a"\n', "targets[0]", 1),
        ('[[targets]]\ntarget_class = ""\npositive = "a"\nnegative = "a"\n', "targets[0].negative", 4),
        (f"resolutions = [[64, 64]]\n[[targets]]\n{SLIDER}resolution = 64\n", "targets[0].resolution", 6),
        (f'neutrals = ["a"]\nneutral = "b"\n[[targets]]\n{SLIDER}', "neutral", 2),
        (f'action = "erase"\n[[prompts]]\n{SLIDER}', "action", 1),
        (f"[[targets]]\n{SLIDER}neutrals = []\n", "targets[0].neutrals", 5),
    ],
)  # fmt: skip
def test_what_is_legal_but_odd_is_a_warning(read_toml: ReadToml, text: str, key: str, line: int):
    """The pairs are given all the same, and the warning names the place."""
    loaded = read_toml(text)
    assert loaded.pairs
    assert [(warning.where.key, warning.where.line) for warning in loaded.warnings if warning.where] == [(key, line)]


def test_yaml_and_json_hold_the_same_tables(tmp_path: Path):
    """The format of the file makes no difference."""
    tables = {"resolution": 64, "targets": [{"target_class": "c", "positive": "p", "negative": "no"}]}
    (tmp_path / "x.json").write_text(json.dumps(tables))
    (tmp_path / "x.yaml").write_text("resolution: 64\ntargets:\n- {target_class: c, positive: p, negative: no}\n")
    (tmp_path / "x.toml").write_text("resolution = 64\n[[targets]]\n" + SLIDER.replace('= "n"', '= "no"'))
    json_pairs, yaml_pairs, toml_pairs = (load_prompts(tmp_path / f"x.{end}").pairs for end in ("json", "yaml", "toml"))
    assert json_pairs == yaml_pairs == toml_pairs


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('\ufeffguidance_scale = 2.0\n[[prompts]]\ntarget = "a"\n', "sd-scripts reads other values"),
        ('\ufeff[[prompts]]\ntarget = "a"\n', "sd-scripts"),
        ('[[prompts]]\ntarget = """"quoted"""\n', "sd-scripts cannot read this file"),
    ],
)
def test_what_sd_scripts_reads_otherwise_is_a_warning(read_toml: ReadToml, text: str, says: str):
    """Its parser takes a byte order mark for part of the first key, and knows less of TOML."""
    (warning,) = read_toml(text).warnings
    assert says in warning.message
