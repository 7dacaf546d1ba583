"""A source can do no harm, no file is replaced by mistake, and nothing half done is left."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from convert_results import Convert, Refused
from leco_converters import Request, convert, write
from leco_converters.read import read_source
from leco_converters.tree import plain

from leco_plugin.config.build import load_prompts
from leco_plugin.errors import ConfigError

GOOD = "- target: a\n"


def laughs(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    return "\n".join(lines) + f"\nprompts: [*a{depth - 1}]\n"


def merges(depth: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 30)}], y{n}: 1}}" for n in range(1, depth)]
    return "\n".join(lines) + "\nprompts: [{target: a}]\n"


def test_aliases_and_merge_keys_are_followed(to_toml: Convert):
    """A table's own keys win over merged ones, and the first merged table over the next."""
    text = (
        "x: &x {positive: b, weight: 2}\ny: &y {weight: 3, multiplier: 4}\n"
        "targets:\n  - &t {<<: [*x, *y], target_class: a}\n  - {<<: *t, positive: c}\n"
    )
    result = to_toml(text.replace("x: &x", "anchors: &x").replace("y: &y", "datasets: &y"))
    found = [(pair.positive, pair.weight, pair.multiplier) for pair in result.pairs if pair.multiplier > 0]
    assert found == [("b", 2, 4), ("c", 2, 4)]


@pytest.mark.parametrize("text", [laughs(9), laughs(7), merges(6)], ids=["laughs", "fewer laughs", "merges"])
def test_a_file_that_grows_without_end_is_refused_quickly(text: str, refused: Refused):
    """It is counted, not built."""
    start = time.process_time()
    (problem,) = refused(text)
    assert "aliases are followed" in problem.message
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("- target: a\n  target: b\n", 2, "already stands in line 1"),
        ("a: &a [*a]\nprompts: []\n", 1, "contains itself"),
        ("- target: *nothing\n", 1, "undefined alias"),
        ("- target: !!python/object/apply:os.system [ls]\n", 1, "tag"),
        ("- !thing {target: a}\n", 1, "tag"),
        ("- target: a\n---\n- target: b\n", 2, "second document"),
        ("- target: [\n", 2, "not valid YAML"),
        ("- {[a]: b}\n", 1, "a key has to be one word"),
        ("- {target: a, <<: 5}\n", 1, "can be merged"),
        ("- target: !!int x\n", 1, "is not what the tag"),
        ("[" * 20_000, None, "nested too deeply"),
        ("- " * 20_000 + "a", None, "nested too deeply"),
    ],
)
def test_unsafe_or_broken_yaml_is_refused_at_its_line(text: str, line: int | None, message: str, refused: Refused):
    """Without a traceback, and without running anything."""
    (problem,) = refused(text)
    assert problem.where
    assert problem.where.line == line
    assert message in problem.message


@pytest.mark.parametrize("data", [b"\xff\xfea\0", b"\xe9: 1", b"a: \0"], ids=["utf-16", "latin-1", "nul"])
def test_what_is_no_text_is_refused(data: bytes, refused: Refused):
    """Files of other encodings, and binary ones."""
    assert "UTF-8" in refused(data)[0].message


def test_tags_of_plain_types_are_taken(tmp_path: Path):
    """They are part of YAML's core."""
    (tmp_path / "x.yaml").write_text('a: !!str 1\nb: !!int "2"\nc: !!float 3\ne: !!null ""\n')
    tree = plain(read_source(tmp_path / "x.yaml").root)
    assert tree == {"a": "1", "b": 2, "c": 3, "e": None}


def test_the_result_stands_beside_the_source(tmp_path: Path):
    """With the other ending, where no target is named."""
    (tmp_path / "a.yaml").write_text(GOOD)
    assert convert(Request(tmp_path / "a.yaml", job=True, model="m")).written == (
        tmp_path / "a.toml",
        tmp_path / "a_job.yaml",
    )
    (tmp_path / "b.toml").write_text('target = "a"\n')
    assert convert(Request(tmp_path / "b.toml")).written == (tmp_path / "b.yaml",)
    assert convert(Request(tmp_path / "a.yaml", to="leco-job")).written == (tmp_path / "a_leco_job.yaml",)


def test_a_file_is_replaced_only_when_that_is_asked_for(tmp_path: Path):
    """And then by a finished one."""
    source, target = tmp_path / "a.yaml", tmp_path / "a.toml"
    source.write_text(GOOD)
    target.write_text("mine")
    with pytest.raises(ConfigError, match="already there"):
        convert(Request(source))
    assert target.read_text() == "mine"
    convert(Request(source, force=True))
    assert len(load_prompts(target).pairs) == 1


@pytest.mark.parametrize("way", ["same", "link", "hard link"])
def test_the_source_is_never_replaced(way: str, tmp_path: Path):
    """Also not by another name of it, and not when replacing is asked for."""
    source, target = tmp_path / "a.yaml", tmp_path / "b.yaml"
    source.write_text(GOOD)
    if way == "same":
        target = source
    elif way == "link":
        target.symlink_to(source)
    else:
        os.link(source, target)
    with pytest.raises(ConfigError, match="never overwritten"):
        convert(Request(source, target, to="leco-job", force=True))
    assert source.read_text() == GOOD


def test_the_files_that_a_source_names_are_never_replaced(tmp_path: Path):
    """The prompts of a config, and a list of neutrals."""
    (tmp_path / "config.yaml").write_text("prompts_file: prompts.yaml\npretrained_model: {name_or_path: a}\n")
    (tmp_path / "prompts.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match="never overwritten"):
        convert(Request(tmp_path / "config.yaml", tmp_path / "out.toml", job=tmp_path / "prompts.yaml", force=True))
    assert (tmp_path / "prompts.yaml").read_text() == GOOD


def test_a_result_that_reads_back_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither it nor the job beside it."""
    source = tmp_path / "a.yaml"
    source.write_text(GOOD)
    module = sys.modules["leco_converters.convert"]
    monkeypatch.setattr(module, "write_toml", lambda *_: '[[prompts]]\ntarget = "b"\n')
    with pytest.raises(ConfigError, match="reads back otherwise"):
        convert(Request(source, job=True, model="m"))
    assert list(tmp_path.iterdir()) == [source]


def test_both_files_are_written_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that fills up at the second one leaves nothing."""
    source = tmp_path / "a.yaml"
    source.write_text(GOOD)
    placed: list[Path] = []

    def fail_at_the_second(path: Path, data: bytes) -> None:
        if placed:
            raise OSError(28, "No space left on device")
        placed.append(path)
        path.write_bytes(data)

    monkeypatch.setattr(write, "write_atomically", fail_at_the_second)
    with pytest.raises(ConfigError, match="No space left"):
        convert(Request(source, job=True, model="m"))
    assert placed == [tmp_path / "a.toml"]
    assert list(tmp_path.iterdir()) == [source]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    """It is not made."""
    (tmp_path / "a.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match="there is no folder"):
        convert(Request(tmp_path / "a.yaml", tmp_path / "no" / "a.toml"))


def test_thousands_of_errors_are_named_quickly(refused: Refused):
    """Each at its place."""
    start = time.process_time()
    problems = refused("targets:\n" + "  - {target_class: a, positive: b, weight: x}\n" * 3000)
    assert [problem.where.line for problem in problems if problem.where] == list(range(2, 3002))
    assert time.process_time() - start < 3
