"""Files become plain trees that know the line of every key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leco_plugin.config.files import Document, read_document, read_prompt_lines
from leco_plugin.errors import ConfigError


def document(folder: Path, name: str, text: str | bytes) -> Document:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_document(path)


def refusal(folder: Path, name: str, text: str | bytes) -> tuple[int | None, str]:
    with pytest.raises(ConfigError) as caught:
        document(folder, name, text)
    (problem,) = caught.value.problems
    assert problem.where is not None
    assert problem.where.file == folder / name
    assert problem.fix
    return problem.where.line, f"{problem.where.key}: {problem.message}"


TOML = '''# a comment = 1
a = 1
"b c".d = """
x = 2
"""  # still b
list = [  # [not a table]
  1, "]",
  {p = 1, q = [2,
    3]},
]

[table]
'k' = \'\'\'
[not.a.table]\'\'\'
[[rows]]
x = 1
[rows.deep]
y = 2
[[rows]]
x = "a # b \\" c = 3"
[[rows.inner]]
z = 1979-05-27 07:32:00
[[ rows . "inner" ]]
z = {"u.v" = 1}
'''
TOML_LINES = {
    ("a",): 2,
    ("b c",): 3,
    ("b c", "d"): 3,
    ("list",): 6,
    ("list", 0): 7,
    ("list", 1): 7,
    ("list", 2): 8,
    ("list", 2, "p"): 8,
    ("list", 2, "q"): 8,
    ("list", 2, "q", 0): 8,
    ("list", 2, "q", 1): 9,
    ("table",): 12,
    ("table", "k"): 13,
    ("rows",): 15,
    ("rows", 0): 15,
    ("rows", 0, "x"): 16,
    ("rows", 0, "deep"): 17,
    ("rows", 0, "deep", "y"): 18,
    ("rows", 1): 19,
    ("rows", 1, "x"): 20,
    ("rows", 1, "inner"): 21,
    ("rows", 1, "inner", 0): 21,
    ("rows", 1, "inner", 0, "z"): 22,
    ("rows", 1, "inner", 1): 23,
    ("rows", 1, "inner", 1, "z"): 24,
    ("rows", 1, "inner", 1, "z", "u.v"): 24,
}


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_toml_key_has_its_line(tmp_path: Path, ends: str, mark: str):
    """Tables, lists of tables, dotted and quoted keys, inline tables, long strings; CRLF and BOM change nothing."""
    read = document(tmp_path, "x.toml", (mark + TOML.replace("\n", ends)).encode())
    assert read.lines == TOML_LINES


def test_every_yaml_key_has_its_line(tmp_path: Path):
    """Block and flow style, and keys that a merge brings in keep the line where they are written."""
    text = "\ufeffbase: &b\r\n  x: 1\r\nrows:\r\n- {p: 1,\r\n   q: [1,\r\n     2]}\r\n- <<: *b\r\n  y: 2\r\n"
    read = document(tmp_path, "x.yaml", text)
    assert read.tree == {"base": {"x": 1}, "rows": [{"p": 1, "q": [1, 2]}, {"x": 1, "y": 2}]}
    expected = {("base",): 1, ("base", "x"): 2, ("rows",): 3, ("rows", 0): 4, ("rows", 0, "p"): 4, ("rows", 0, "q"): 5}
    expected |= {("rows", 0, "q", 1): 6, ("rows", 1): 7, ("rows", 1, "x"): 2, ("rows", 1, "y"): 8}
    assert {key: read.lines[key] for key in expected} == expected


def test_every_json_key_has_its_line(tmp_path: Path):
    """JSON with tabs and escapes, which a YAML reader would stumble over."""
    text = '{\n\t"a\\/\\"{": [1,\n\t\t{"b": "]"}],\n\t"c": {"d": null}}'
    read = document(tmp_path, "x.json", text)
    assert read.tree == {'a/"{': [1, {"b": "]"}], "c": {"d": None}}
    assert read.lines == {
        ('a/"{',): 2, ('a/"{', 0): 2, ('a/"{', 1): 3, ('a/"{', 1, "b"): 3, ("c",): 4, ("c", "d"): 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("2E3", 2000.0),
        (".5", 0.5),
        ("-3", -3),
        ("0x10", 16),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2020-01-01", "2020-01-01"),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("1.5.2", "1.5.2"),
        ('"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_yaml_scalars_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: object):
    """A number may have an exponent; only true and false are switches."""
    tree = document(tmp_path, "x.yaml", f"k: {text}\n").tree
    assert tree == {"k": value}
    assert isinstance(tree, dict)
    assert type(tree["k"]) is type(value)


def test_a_tables_own_keys_win_over_merged_ones(tmp_path: Path):
    """Own keys first, then the merged tables from left to right, wherever ``<<`` stands."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\n"
    tree = document(tmp_path, "x.yaml", text).tree
    assert isinstance(tree, dict)
    assert tree["c"] == {"x": 3, "y": 1, "z": 2}


ANY_LINE = 0
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("x.yaml", "a: 1\nb: 2\na: 3\n", 3, "a: this key already stands in line 1"),
        ("x.yaml", "a:\n  - {k: 1, k: 2}\n", 2, "a[0].k: this key already"),
        ("x.yaml", "a: 1\n---\nb: 2\n", 2, "a second document"),
        ("x.yaml", "a: 1\nb: [1\nc: 2\n", 3, "not valid YAML"),
        ("x.yaml", "a:\n\t- 1\n", 2, "a tab cannot indent"),
        ("x.yaml", "a: !!python/object/apply:os.system [ls]\n", 1, "tag"),
        ("x.yaml", "a: 1\nb: !thing {}\n", 2, "tag"),
        ("x.yaml", "a: 1\n? [b]\n: 2\n", 2, "one word"),
        ("x.yaml", "a: &a [*a]\n", 1, "nested too deeply"),
        ("x.yaml", "a: &a\n  <<: *a\n", 1, "contains itself"),
        ("x.yaml", "a: 1\nb: *c\n", 2, "undefined alias"),
        ("x.yaml", BOMB, ANY_LINE, "more than 100000 values"),
        ("x.yaml", "[" * 5000, ANY_LINE, "nested too deeply"),
        ("x.yaml", f"a: {'9' * 5000}\n", 1, "too many digits"),
        ("x.toml", "a = 1\nb = \n", 2, "not valid TOML"),
        ("x.toml", "a = 1\n\na = 2\n", 3, "already stands above"),
        ("x.toml", "a = van gogh\n", 1, "not valid TOML"),
        ("x.toml", "a = [1,\n2\n", 3, "not valid TOML"),
        ("x.toml", f"a = {'[' * 5000}\n", None, "nested too deeply"),
        ("x.json", '{"a": 1,\n "a": 2}', 2, "a: this key already stands in line 1"),
        ("x.json", '{"a": NaN}', None, "NaN is not a JSON number"),
        ("x.json", '{"a": -Infinity}', None, "Infinity is not a JSON number"),
        ("x.json", '{"a": 1,\n}', 2, "not valid JSON"),
        ("x.json", "[" * 100000, None, "nested too deeply"),
        ("x.toml", b"a = 1\nb = '\xff'\n", 2, "not UTF-8"),
        ("x.toml", b"a = 1\nb = '\0'\n", 2, "NUL byte"),
        ("x.toml", "a = 1\n".encode("utf-16"), None, "UTF-16"),
        ("x.txt", "a = 1\n", None, "the ending does not say"),
    ],
)
def test_a_broken_file_is_refused_at_its_line(
    tmp_path: Path, name: str, text: str | bytes, line: int | None, says: str
):
    """One problem, with the line where it can be known, and a fix."""
    found, message = refusal(tmp_path, name, text)
    assert says in message
    assert line == ANY_LINE or found == line


def test_what_is_no_file_is_refused(tmp_path: Path):
    """A folder, a missing file and a file that is far too large."""
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "large.toml").write_bytes(b"#" * 5_000_000)
    (tmp_path / "bare").mkdir()
    said = {"folder.toml": "a folder", "bare": "a folder", "none.toml": "no such file", "none": "no such file"}
    for name, says in {**said, "large.toml": "larger than"}.items():
        with pytest.raises(ConfigError, match=says):
            read_document(tmp_path / name)
    with pytest.raises(ConfigError):
        read_document(tmp_path / ("n" * 5000 + ".toml"))


def test_prompt_lines_are_stripped_and_never_empty(tmp_path: Path):
    """Line ends of all systems end a prompt; a form feed or a Unicode separator does not."""
    path = tmp_path / "n.txt"
    path.write_bytes("\ufeff a \r\n\r\n \t\nb\u2028c\rd\x0ce".encode())
    assert read_prompt_lines(path) == ["a", "b\u2028c", "d\x0ce"]


def test_yaml_that_is_too_large_is_refused_before_it_is_parsed(tmp_path: Path):
    """Its reader is slow; TOML and JSON of the same size are read."""
    text = json.dumps({"prompts": ["x" * 100] * 12_000})
    with pytest.raises(ConfigError, match="YAML is read too slowly"):
        document(tmp_path, "x.yaml", text)
    assert document(tmp_path, "x.json", text).tree == json.loads(text)


@pytest.mark.parametrize(
    ("name", "text"), [("x.json", '{"a": ' * 60 + "1" + "}" * 60), ("x.toml", f"a = {'[' * 60}{']' * 60}\n")]
)
def test_what_is_nested_deeper_than_any_settings_is_refused(tmp_path: Path, name: str, text: str):
    """Whatever reads it would have to call itself as often."""
    assert refusal(tmp_path, name, text) == (None, ": nested more than 50 levels deep, so it is no settings file")


def test_an_escape_that_names_no_character_is_refused(tmp_path: Path):
    """Unicode ends at U+10FFFF."""
    assert "names no character" in refusal(tmp_path, "x.yaml", 'a: "\\U00110000"\n')[1]


def test_only_what_an_editor_counts_ends_a_line_of_yaml(tmp_path: Path):
    """Not the Unicode separators that YAML 1.1 names."""
    read = document(tmp_path, "x.yaml", "# a\u2028# b\x85# c\na: 1\nb: [2,\n  3]\n")
    assert (read.lines[("a",)], read.lines[("b", 1)]) == (2, 4)
