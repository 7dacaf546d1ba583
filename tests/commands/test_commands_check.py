"""`leco check` says what a file means, or what is wrong with it, and never fails otherwise."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leco_plugin.commands.check_file import check, check_hosted
from leco_plugin.commands.main import main
from leco_plugin.commands.tellers import Plain, Ways
from leco_plugin.config.schema import JobConfig, PromptPair
from leco_plugin.config.words import equation, in_words

EXAMPLES = Path(__file__).parents[2] / "config_examples"


def run(path: Path, **ways: bool) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = check(path, Ways(**ways), Plain(out), out, err)
    return code, out.getvalue(), err.getvalue()


def prompts(folder: Path, text: str) -> Path:
    path = folder / "p.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_equation_says_what_is_taken_from_where():
    """Erase takes away, enhance adds, and the strength is named where it is not 1."""
    assert equation(PromptPair(target="van gogh", positive="van gogh")) == (
        "erase 'van gogh': when asked for 'van gogh', predict what '' predicts, minus 1.0 x what 'van gogh' adds to ''"
    )
    pair = PromptPair(
        target="c", positive="p", unconditional="u", neutral="n", action="enhance", guidance_scale=2, multiplier=-1
    )
    assert equation(pair) == (
        "enhance 'p': when asked for 'c' at strength -1.0, predict what 'n' predicts, plus 2.0 x what 'p' adds to 'u'"
    )


def test_the_other_end_of_a_slider_keeps_the_sign_of_its_action():
    """At a negative strength erase still takes away."""
    pair = PromptPair(target="c", positive="p", action="erase", multiplier=-0.5)
    assert "at strength -0.5, predict what '' predicts, minus 1.0 x what 'p' adds" in equation(pair)


def test_every_value_of_a_pair_is_printed_on_wish(tmp_path: Path):
    """Height and width are told apart."""
    path = prompts(tmp_path, '[[prompts]]\ntarget = "a"\nresolution = [64, 128]\nbatch_size = 3\nweight = 0.5\n')
    code, out, err = run(path, everything=True)
    assert (code, err) == (0, "")
    for part in ("64 high x 128 wide", "batch_size 3", "weight 0.5", "multiplier 1.0", "guidance_scale 1.0"):
        assert part in out
    assert "dynamic_resolution false, dynamic_crops false" in out


def test_every_setting_of_a_job_is_printed_on_wish():
    """Also the defaults."""
    code, out, _ = run(EXAMPLES / "size_job.yaml", everything=True, estimate=False)
    assert code == 0
    for name, field in JobConfig.model_fields.items():
        if name not in ("pairs", "meta"):
            inner = getattr(field.annotation, "model_fields", {})
            for label in [f"  {name}.{below} " for below in inner] or [f"  {name} "]:
                assert label in out


def test_what_will_be_trained_is_told_first_and_in_words():
    """Then what differs from the defaults, and what the job leaves open; not the rest."""
    _, out, _ = run(EXAMPLES / "size_job.yaml", estimate=False)
    head, changed, left = out.replace(
        "what the job leaves open (ai-toolkit has its own defaults for network and train)",
        "what differs from the defaults",
    ).split("what differs from the defaults\n")
    assert head.splitlines()[1] == "  a slider on 'shape': 'big shape' at strength +1, 'small shape' at -1"
    assert "edit strength 2, at 64 x 64 pixels" in head
    assert "on builtin:tiny: 500 steps at lr 0.0001" in head
    assert f"writes {Path('output/size_slider/size_slider.safetensors')}" in head
    said = dict(line.split()[:2] for line in changed.splitlines() if line.startswith("  network"))
    assert said == {"network.linear": "8"}
    assert "(default for builtin:tiny: 200)" in changed
    assert left.splitlines()[0].split(maxsplit=2) == ["leco.pairs_per_step", "4", "default for builtin:tiny"]
    assert "lr_scheduler" not in out


def test_an_sdxl_job_that_says_nothing_has_its_family_s_defaults(tmp_path: Path):
    """Each of them is named as such; the pairs have them, too."""
    path = tmp_path / "job.yaml"
    model = "stabilityai/stable-diffusion-xl-base-1.0"
    path.write_text(
        f"job: extension\nconfig:\n  name: a\n  process:\n    - type: leco\n      model: {{name_or_path: {model}}}\n"
        "      leco: {target_class: a, positive: b, negative: c}\n",
        "utf-8",
    )
    _, out, _ = run(path, estimate=False)
    assert "at 1024 x 1024 pixels" in out
    assert f"on {model} (SDXL): 1000 steps at lr 0.0001" in out
    left = out.partition("for network and train)\n")[2]
    assert "  network.linear               8       default for SDXL\n" in left
    assert "  prompts: resolution          1024    default for SDXL\n" in left
    told = json.loads(run(path, json=True, estimate=False)[1])
    assert (told["family"], told["defaults"]["train.steps"], told["job"]["network"]["linear"]) == ("sdxl", 1000, 8)
    assert {tuple(pair["resolution"]) for pair in told["pairs"]} == {(1024, 1024)}


def test_a_model_that_is_not_here_is_warned_of(tmp_path: Path):
    """The job may be for another machine; a typo would be told after the run's start only."""
    path = tmp_path / "job.yaml"
    path.write_text((EXAMPLES / "size_job.yaml").read_text("utf-8").replace("builtin:tiny", "./shapes"), "utf-8")
    for prompt_file in EXAMPLES.glob("*.toml"):
        (tmp_path / prompt_file.name).write_bytes(prompt_file.read_bytes())
    code, _, err = run(path, estimate=False)
    assert code == 0
    assert err.startswith(f"warning: {path}: model.name_or_path: there is no model './shapes' here\n  fix: ")


def words(*pairs: PromptPair) -> list[str]:
    return in_words(pairs)


def test_every_kind_of_pair_has_its_sentence():
    """A slider's pairs are one sentence, whichever side is missing."""
    assert words(PromptPair(target="van gogh", positive="van gogh")) == ["takes 'van gogh' out of 'van gogh'"]
    strengthen = PromptPair(target="c", positive="p", unconditional="u", neutral="n", action="enhance")
    assert words(strengthen) == ["adds 'p' to 'c', measured against 'u', towards 'n'"]
    assert words(PromptPair(target="d", positive="d", neutral="d", guidance_scale=0)) == ["keeps 'd' as it is"]
    up = [PromptPair(target="c", positive="p", action=a, multiplier=m) for a, m in (("enhance", 1), ("erase", -1))]
    assert words(*up) == ["a slider on 'c': 'p' at strength +1, less 'p' at -1"]


def test_errors_go_to_stderr_with_line_and_fix(tmp_path: Path):
    """And the exit code is 2."""
    path = prompts(tmp_path, '[[prompts]]\ntarget = "a"\nguidence_scale = 1\nweight = "1"\n')
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert err == (
        f"{path}:3: prompts[0].guidence_scale: unknown key\n"
        "  fix: did you mean 'guidance_scale'?\n"
        f"{path}:4: prompts[0].weight: must be a number, not the text '1'\n"
        "  fix: remove the quotes\n"
    )


def test_warnings_go_to_stderr_and_the_file_is_good(tmp_path: Path):
    """Exit code 0."""
    code, out, err = run(prompts(tmp_path, '[[prompts]]\ntarget = "a"\nweight = 0\n'))
    assert code == 0
    assert "1 training pair\n" in out
    assert err.startswith("warning: ")


def test_json_lists_pairs_warnings_and_job():
    """Nothing but one JSON object on stdout."""
    code, out, err = run(EXAMPLES / "size_job.yaml", json=True)
    told = json.loads(out)
    assert (code, err, sorted(told)) == (0, "", ["defaults", "estimate", "family", "job", "pairs", "warnings"])
    assert told["job"]["train"]["lr"] == 1e-4
    assert told["pairs"][0] == {
        "target": "shape", "positive": "small shape", "unconditional": "big shape", "neutral": "",
        "action": "erase", "guidance_scale": 2.0, "resolution": [64, 64], "dynamic_resolution": False,
        "batch_size": 1, "dynamic_crops": False, "multiplier": 1.0, "weight": 1.0,
    }  # fmt: skip
    code, out, _ = run(EXAMPLES / "size.toml", json=True)
    assert sorted(json.loads(out)) == ["pairs", "warnings"]


def test_json_errors_go_to_stdout(tmp_path: Path):
    """With file, line, key, message and fix apart."""
    path = prompts(tmp_path, '[[prompts]]\ntarget = "a"\nzzz = 1\n')
    code, out, err = run(path, json=True)
    (problem,) = json.loads(out)["errors"]
    assert (code, err) == (2, "")
    assert (problem["file"], problem["line"], problem["key"]) == (str(path), 3, "prompts[0].zzz")
    assert problem["message"] == "unknown key"
    assert problem["fix"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("json_output", [False, True])
@pytest.mark.parametrize("key", ["target", "tärget"])
def test_text_that_the_console_cannot_show_is_spelled_out(tmp_path: Path, encoding: str, json_output: bool, key: str):
    """No UnicodeEncodeError, for good and for bad files."""
    path = prompts(tmp_path, f'[[prompts]]\n"{key}" = "猫 \\u202e[31m"\nweight = 0\n')
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    code = check(path, Ways(json=json_output, everything=True), Plain(stream), stream, stream)
    stream.flush()
    shown = raw.getvalue().decode(encoding)
    assert code == (0 if key == "target" else 2)
    assert "\u202e" not in shown
    if json_output:
        json.loads(shown)
    elif key == "target":
        assert "\\u732b \\u202e[31m" in shown


def test_what_a_job_will_need_is_estimated():
    """Memory part by part and time, after the pairs; a prompt file alone names no model."""
    _, out, _ = run(EXAMPLES / "size_job.yaml", everything=True)
    assert "weights of the model" in out.partition("training pairs")[2]
    assert "500 steps: about" in out
    _, out, _ = run(EXAMPLES / "size_job.yaml")
    assert "memory on a GPU, estimated: " in out
    assert "weights of the model" not in out
    _, out, _ = run(EXAMPLES / "size.toml")
    assert "memory" not in out


@pytest.mark.parametrize("option", ["", "--no-estimate"])
def test_no_model_library_is_imported_before_all_but_the_estimate_is_told(option):
    """So that it answers at once; without the estimate it ends there."""
    code = (
        "import io, sys\n"
        "from leco_plugin.commands.main import main\n"
        "loaded = []\n"
        "class Told(io.StringIO):\n"
        "    def write(self, text):\n"
        "        heavy = {'torch', 'diffusers', 'transformers', 'peft', 'rich', 'numpy'} & sys.modules.keys()\n"
        "        loaded.append((text, heavy))\n"
        "        return len(text)\n"
        "out, sys.stdout = sys.stdout, Told()\n"
        f"assert main(['check', {str(EXAMPLES / 'size_job.yaml')!r}, *{option.split()!r}]) == 0\n"
        "sys.stdout = out\n"
        "told = [text for text, heavy in loaded if not heavy]\n"
        "assert '4 training pairs\\n' in told, told\n"
        "late = ''.join(text for text, heavy in loaded if heavy)\n"
        f"assert late.startswith('memory on a GPU' if {not option} else ''), late\n"
        f"assert bool(late) == {not option}, late\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=EXAMPLES.parent)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_estimate_can_be_left_out():
    """In text and in JSON."""
    code, out, _ = run(EXAMPLES / "size_job.yaml", estimate=False)
    assert code == 0
    assert "memory on a GPU" not in out
    code, out, _ = run(EXAMPLES / "size_job.yaml", json=True, estimate=False)
    assert code == 0
    assert "estimate" not in json.loads(out)


def test_a_pair_without_strength_on_its_own_neutral_is_said_to_keep_its_prompt(tmp_path: Path) -> None:
    """`guidance_scale = 0` with the target as neutral reads as keeping that prompt, and is no reason for a warning."""
    prompts = tmp_path / "keep.toml"
    prompts.write_text('[[prompts]]\ntarget = "a dog"\nneutral = "a dog"\nguidance_scale = 0\n', encoding="utf-8")
    code, out, err = run(prompts, everything=True)
    assert code == 0
    assert "keep 'a dog': when asked for 'a dog', predict what it predicts without the LoRA" in out
    assert err == ""


def hosted(host: str, *files: Path, **ways: Any) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = check_hosted(host, files, Ways(**ways), Plain(out), out, err)
    return code, out.getvalue(), err.getvalue()


HOSTED = """\
job: extension
config:
  name: a
  process:
    - type: leco
      model: {name_or_path: Tongyi-MAI/Z-Image-Turbo, arch: "zimage:turbo"}
      network: {type: lora, linear: 8}
      train: {steps: 3, some_option_of_the_host: 1}
      leco: {target_class: a, positive: b, negative: c}
"""


def test_a_job_of_another_host_is_told_with_what_leco_does_there(tmp_path: Path):
    """Its own options are its own business; what LECO adds has the same defaults as in the built-in host."""
    (tmp_path / "job.yaml").write_text(HOSTED)
    code, out, err = hosted("ai-toolkit", tmp_path / "job.yaml")
    assert (code, err) == (0, "")
    assert "  a slider on 'a': 'b' at strength +1, 'c' at -1\n  edit strength 1.5, at 512 x 512 pixels\n" in out
    assert "on Tongyi-MAI/Z-Image-Turbo (Z-Image), trained by ai-toolkit\n  walks of 8 steps at guidance 1\n" in out
    left = out.partition("what is left open\n")[2]
    assert "leco.max_denoising_steps     8    default for Z-Image" in left
    assert "network" not in left
    _, told, _ = hosted("ai-toolkit", tmp_path / "job.yaml", json=True)
    assert json.loads(told)["defaults"]["pair.resolution"] == 512


def test_a_config_of_onetrainer_is_read_with_its_prompts(tmp_path: Path):
    """In the host's order: a preset, the config, the prompts."""
    for name, text in {
        "preset.json": '{"model_type": "STABLE_DIFFUSION_XL_10_BASE", "resolution": "768"}',
        "config.json": '{"base_model_name": "some/model"}',
        "prompts.toml": '[[prompts]]\ntarget = "a"\npositive = "b"\n',
    }.items():
        (tmp_path / name).write_text(text)
    code, out, _ = hosted("onetrainer", *(tmp_path / name for name in ("preset.json", "config.json", "prompts.toml")))
    assert code == 0
    assert "edit strength 1, at 768 x 768 pixels\n  on some/model (SDXL), trained by onetrainer" in out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("zimage:turbo", "omnigen2"), "model.arch 'omnigen2' predicts data - noise"),
        (("target_class: a", "traget_class: a"), "job.yaml:9: config.process[0].leco.traget_class: unknown key"),
        (("type: leco", "type: slider"), "this is no job of ai-toolkit with `type: leco`"),
        (("steps: 3", "snr_gamma: 5"), "train.snr_gamma means nothing to LECO"),
    ],
)
def test_what_leco_would_refuse_there_is_refused_here(tmp_path: Path, change: tuple[str, str], says: str, capsys):
    """Before anything is loaded, with code 2; so are a host that tells nothing and files that are too many."""
    (tmp_path / "job.yaml").write_text(HOSTED.replace(*change))
    assert main(["check", "--host", "ai-toolkit", str(tmp_path / "job.yaml")]) == 2
    assert says in capsys.readouterr().err


def test_files_that_do_not_go_together_are_refused(tmp_path: Path, capsys):
    """One job for ai-toolkit, a config and prompts for OneTrainer, one file alone for the built-in host."""
    (tmp_path / "job.yaml").write_text(HOSTED)
    job = str(tmp_path / "job.yaml")
    for arguments in (["--host", "ai-toolkit", job, job], ["--host", "onetrainer", job], [job, job]):
        assert main(["check", *arguments]) == 2
    said = capsys.readouterr().err
    assert "ai-toolkit's jobs are checked one at a time" in said
    assert "a config of OneTrainer and a prompt file are needed" in said
    assert "one file is checked at a time" in said
