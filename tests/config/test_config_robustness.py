"""Whatever a file holds, reading it ends with settings or with a ConfigError."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leco_plugin.config.build import build_job, build_prompts, load
from leco_plugin.config.files import Document
from leco_plugin.config.prompt_keys import ROOT_KEYS
from leco_plugin.config.schema import JobConfig, LecoConfig, SaveConfig, TrainConfig
from leco_plugin.errors import ConfigError

KEYS = sorted(
    ROOT_KEYS
    | {"job", "config", "process", "type", "prompts_file", "meta"}
    | JobConfig.model_fields.keys() | TrainConfig.model_fields.keys()
    | SaveConfig.model_fields.keys() | LecoConfig.model_fields.keys()
)  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates()
    | st.sampled_from(["leco", "extension", "erase", "a", 512, 64.0, 10**400, [512, 64]])
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=20,
)
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
TABLES = st.dictionaries(st.sampled_from(KEYS), TREES, max_size=6)


@CALM
@given(TREES | TABLES)
def test_any_tree_gives_prompts_or_a_config_error(tree: object):
    """Never another exception, whatever the types."""
    with contextlib.suppress(ConfigError):
        build_prompts(Document(Path("x.yaml"), tree))


@CALM
@given(TREES | st.dictionaries(st.sampled_from(KEYS), TREES | TABLES).map(lambda table: {**table, "type": "leco"}))
def test_any_process_gives_a_job_or_a_config_error(process: object):
    """The frame is right, everything in it is arbitrary."""
    tree = {"job": "extension", "config": {"name": "x", "process": [process]}}
    with contextlib.suppress(ConfigError):
        build_job(Document(Path("x.yaml"), tree))


@CALM
@given(TREES)
def test_any_tree_as_a_job_gives_a_config_error(tree: object):
    """No arbitrary tree is a job by accident."""
    with pytest.raises(ConfigError):
        build_job(Document(Path("x.yaml"), tree))


@CALM
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
@pytest.mark.parametrize("ending", ["toml", "yaml", "json"])
def test_any_bytes_give_settings_or_a_config_error(tmp_path: Path, ending: str, content: bytes):
    """Broken encodings, broken syntax, control characters."""
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        load(path)


SYNTAX = st.lists(st.sampled_from([*"[]{}=:,.#\"'\n &*-<!?|>%@`\\\t", "a", "1", "[[", '"""', "'''", "<<: ", "- "]))


@CALM
@given(pieces=SYNTAX)
@pytest.mark.parametrize("ending", ["toml", "yaml", "json"])
def test_any_syntax_gives_settings_or_a_config_error(tmp_path: Path, ending: str, pieces: list[str]):
    """Pieces of the three languages in any order."""
    path = tmp_path / f"x.{ending}"
    path.write_text("".join(pieces), encoding="utf-8")
    with contextlib.suppress(ConfigError):
        load(path)


@CALM
@given(tree=TABLES)
def test_a_file_and_its_tree_agree(tmp_path: Path, tree: dict[str, object]):
    """JSON text, read as JSON and as YAML, gives the same outcome."""
    try:
        text = json.dumps(tree, allow_nan=False)
    except (TypeError, ValueError):
        return
    outcomes = []
    for ending in ("json", "yaml"):
        path = tmp_path / f"x.{ending}"
        path.write_text(text, encoding="utf-8")
        try:
            outcomes.append(str(load(path)).replace(ending, ""))
        except ConfigError as error:
            outcomes.append(str(error).replace(ending, ""))
    assert outcomes[0] == outcomes[1]
