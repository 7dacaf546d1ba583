"""The `sample:` section: ai-toolkit's keys and prompt flags as its users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from leco_plugin.config.build import load_job
from leco_plugin.config.sample import SampleConfig, SamplePrompt
from leco_plugin.errors import ConfigError

JOB = """\
job: extension
config:
  name: size
  process:
    - type: leco
      model: {name_or_path: builtin:tiny}
      leco: {prompts: [{target: red}]}
      sample:
"""


def sample(folder: Path, text: str) -> SampleConfig:
    path = folder / "job.yaml"
    path.write_text(JOB + "".join(f"        {line}\n" for line in text.splitlines()), "utf-8")
    return load_job(path).job.sample


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        sample(folder, text)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", {"prompt": "a cat"}),
        ("a cat, sitting --m -1.5", {"prompt": "a cat, sitting", "network_multiplier": -1.5}),
        ("a cat --n ugly, bad --m 2", {"prompt": "a cat", "neg": "ugly, bad", "network_multiplier": 2.0}),
        ("a cat --w 768 --h 512", {"prompt": "a cat", "width": 768, "height": 512}),
        (
            "a cat --d 42 --l 7.5 --s 30",
            {"prompt": "a cat", "seed": 42, "guidance_scale": 7.5, "sample_steps": 30},
        ),
        (
            "a cat --seed 42 --cfg 7 --steps 30 --network_multiplier 1",
            {"prompt": "a cat", "seed": 42, "guidance_scale": 7.0, "sample_steps": 30, "network_multiplier": 1.0},
        ),
        ("--m 2", {"prompt": "", "network_multiplier": 2.0}),
        ("half--timbered house -- old", {"prompt": "half--timbered house -- old"}),
    ],
)
def test_flags_after_a_prompt_are_ai_toolkits(text, expected):
    """Short and long ones, with negative numbers; two dashes inside a prompt are no flag."""
    assert SamplePrompt.model_validate(text).model_dump() == expected


def test_a_section_of_ai_toolkit_is_taken_as_it_stands(tmp_path):
    """Its `neg: false` is no negative prompt; tables under `samples` mean the same as texts under `prompts`."""
    section = "sampler: ddpm\nsample_every: 250\nwidth: 512\nheight: 768\nneg: false\nseed: 42\nwalk_seed: true\n"
    section += "guidance_scale: 7\nsample_steps: 20\n"
    texts = sample(tmp_path, f'{section}prompts: ["a cat --m 1e0 --n dog", "a dog"]')
    tables = sample(
        tmp_path, f"{section}samples: [{{prompt: a cat, network_multiplier: 1, neg: dog}}, {{prompt: a dog}}]"
    )
    assert texts.asked == tables.asked
    assert (texts.neg, texts.guidance_scale, texts.height, texts.walk_seed) == ("", 7.0, 768, True)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('prompts:\n  - a\n  - "b --q 3"', 11, "sample.prompts[1]: no flag of a prompt is called --q"),
        ('prompts: ["b --s many"]', 9, "--s must be a whole number, not 'many'"),
        ('prompts: ["b --w 500"]', 9, "sample.prompts[0].width"),
        ("samples:\n  - {prompt: a, negg: b}", 10, "samples[0].negg: unknown key\n  fix: did you mean 'neg'?"),
        ("prompts: [a]\nsamples: [{prompt: b}]", 8, "prompts and samples mean the same"),
        ("prompts: [3]", 9, "sample.prompts[0]"),
        ("sample_every: 0", 9, "must be at least 1"),
        ("guidance_rescale: 0.5", 9, "unknown key"),
    ],
)
def test_what_cannot_be_meant_is_an_error_with_its_line(tmp_path, text, line, message):
    """One problem each, in the words of the file."""
    (problem,) = problems(tmp_path, text)
    assert f"job.yaml:{line}: " in problem
    assert message in problem
