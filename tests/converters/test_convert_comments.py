"""Comments and order survive: people's files are mostly comments."""

from __future__ import annotations

import io
import re

import pytest
import tomlkit
from convert_results import Convert
from ruamel.yaml import YAML

YAML_SOURCE = """# about the file

job: train # the job
# above config
config:
  name: n   # its name
  training_folder: out
  process:
    # one process
    - type: slider # its type
      # about the network
      network: # below it
        type: lierla  # its kind
        rank: 8
      # about training
      train:
        steps: 10 # few
        # a strange setting
        strange: 1 # very
      model: {name_or_path: a/b}   # the model
      # about the slider
      slider:
        # sizes
        resolutions:
          - [512, 512] # small
#          - [768, 768]
        # not used
        anchors: # unused
          - prompt: kept # an anchor
            # not this
            neg_prompt: e # negative
            multiplier: 1.0 # as ever
          # a target
          - prompt: "a # b" # cannot stay
        # a file
        prompt_tensors: x # encoded
        targets: # all targets

          # the first
          - target_class: "a # b" # its class
            # up
            positive: |  # a block
              b # no comment
            # down
            negative: >-
              c
            shuffle: true # mixed
          # the second
          - positive: d
            weight: 1.0
    # after the slider
# about meta
meta:
  name: x # a name
# the end
"""


def comments(text: str) -> list[str]:
    """The comments of a text whose values hold no ``#`` of their own."""
    return [
        line[line.index("# ") + 2 :].strip() for line in text.splitlines() if "# " in line and "no comment" not in line
    ]


def expected() -> list[str]:
    """Every comment of the source, whatever stands before it in its line."""
    found = [re.sub(r'^.*"a # b" # ', "# ", line) for line in YAML_SOURCE.splitlines()]
    return [line.split("# ", 1)[1].strip() for line in found if "# " in line and "no comment" not in line]


@pytest.mark.parametrize("options", [{}, {"job": True}], ids=["alone", "with a job"])
def test_every_comment_of_a_job_stands_in_the_result(options: dict[str, bool], to_toml: Convert):
    """In the prompt file, or in the job beside it; once each."""
    result = to_toml(YAML_SOURCE, **options)
    text = re.sub(" +", " ", "".join(path.read_text() for path in result.conversion.written))
    wanted = expected()
    assert len(wanted) > 25
    for comment in wanted:
        assert text.count(f"# {comment}\n") == 1, comment


def test_comments_stay_at_their_values(to_toml: Convert):
    """Those above a value above it, those behind it behind it."""
    text = to_toml(YAML_SOURCE, job=True).text
    assert '# the first\n[[targets]]\ntarget_class = "a # b"  # its class\n# up\n# a block\n' not in text
    assert '# the first\n[[targets]]\ntarget_class = "a # b"  # its class\n# up\n' in text
    assert "# the second\n[[targets]]\n" in text
    assert "# sizes\n# small\nresolutions = [[512, 512]]\n#          - [768, 768]\n" in text


def test_what_is_left_out_stays_as_a_comment(to_toml: Convert):
    """At the end of the file, with its own comments, so that no text is lost."""
    text = to_toml(YAML_SOURCE, job=True).text
    left = text.partition("\n# Not carried over:\n")[2]
    assert "# a file\n# prompt_tensors: x # encoded\n" in left
    assert '# not this\n# neg_prompt: "e" # negative\n' in left
    assert 'preserve = ["kept"]  # unused\n' in text


def test_the_order_of_a_list_and_of_its_keys_stays(to_toml: Convert):
    """Single values move above the tables, because TOML wants them there."""
    text = to_toml(
        "targets:\n  - weight: 2\n    positive: a\n    target_class: b\nbatch_size: 2\nresolution: 64\n"
    ).text
    names = [line.split(" = ")[0] for line in text.splitlines() if line]
    assert names == ["batch_size", "resolution", "[[targets]]", "weight", "positive", "target_class"]


TOML_SOURCE = """# about the file

# a default
guidance_scale = 1.0   # strength
resolution = 512 # size
preserve = [ # kept
    # a dog
    "dog", # barks
]
neutrals = [ # several
    "", # empty
    # the other
    "photo # x",
]

# the first
[[targets]] # a table
# its class
target_class = "it's # one" # class
positive = '''
a # b''' # up
weight = 1.0
# the end
"""


@pytest.mark.parametrize("to", ["leco-job", "ai-toolkit"])
def test_every_comment_of_a_prompt_file_stands_in_the_job(to: str, to_yaml: Convert):
    """Also those at keys that ai-toolkit has not."""
    text = to_yaml(TOML_SOURCE, to=to).text
    wanted = [
        "about the file",
        "a default",
        "strength",
        "size",
        "kept",
        "a dog",
        "barks",
        "several",
        "empty",
        "the other",
        "the first",
        "a table",
    ]
    for comment in [*wanted, "its class", "class", "up", "the end"]:
        assert len(re.findall(rf"# {comment}$", text, re.MULTILINE)) == 1, comment


def test_tomlkit_finds_the_comments_where_we_put_them(to_toml: Convert):
    """A library that keeps comments reads the result as it was meant."""
    text = to_toml("# head\n\ntargets:\n  # item\n  - target_class: a # class\n    positive: b\n").text
    document = tomlkit.parse(text)
    assert tomlkit.dumps(document) == text
    assert document["targets"][0]["target_class"].trivia.comment == "# class"


def test_ruamel_finds_the_comments_where_we_put_them(to_yaml: Convert):
    """A library that keeps comments writes the result as it is."""
    text = to_yaml(TOML_SOURCE, to="leco-job").text
    library = YAML()
    library.preserve_quotes = True
    library.width = 1000
    library.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    library.dump(library.load(text), out)
    assert comments(out.getvalue()) == comments(text)
    assert "# class" in str(library.load(text)["config"]["process"][0]["leco"]["targets"][0].ca.items["target_class"])


def test_comments_that_the_parser_of_sd_scripts_would_trip_over_stand_alone(to_toml: Convert):
    """The values come first."""
    text = "- target: a # it's \"quoted\" [x = 1\n  neutral: b # '''\n"
    result = to_toml(text)
    assert (result.pairs[0].target, result.pairs[0].neutral) == ("a", "b")
    assert '# it\'s "quoted" [x = 1' in result.text
    assert "# '''" in result.text


def test_json_has_no_comments_and_loses_none(to_toml: Convert):
    """Nothing that looks like one is made up."""
    assert "#" not in to_toml('{"prompts": [{"target": "a"}]}', "source.json").text
