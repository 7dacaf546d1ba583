"""The documents say what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from leco_plugin import hookspecs
from leco_plugin.commands import main as cli
from leco_plugin.config.build import load_job, load_prompts
from leco_plugin.config.describe import page
from leco_plugin.config.schema import PromptPair

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def doc(name: str) -> str:
    """A page of the docs."""
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


def test_the_docs_name_every_hook_with_its_arguments() -> None:
    """A plugin author finds each hook in docs/plugins.md as it is called."""
    hooks = [name for name in vars(hookspecs) if name.startswith("leco_")]
    assert len(hooks) <= 6
    for name in hooks:
        code = getattr(hookspecs, name).__code__
        assert f"`{name}({', '.join(code.co_varnames[: code.co_argcount])})`" in doc("plugins")


def test_the_docs_name_every_command_and_flag() -> None:
    """What the command line offers is in the table of docs/commands.md."""
    page_of_commands = doc("commands")
    commands = next(action for action in cli._parser()._actions if action.choices).choices or {}
    for name, parser in commands.items():
        assert re.search(f"`leco {name}[ `]", page_of_commands), name
        for action in parser._actions:
            for flag in action.option_strings:
                assert flag.startswith("-h") or flag == "--help" or flag in page_of_commands, f"leco {name} {flag}"


def test_the_docs_list_every_field_of_a_pair() -> None:
    """Each key of [[prompts]] stands in docs/prompts.md."""
    for field in PromptPair.model_fields:
        assert f"`{field}`" in doc("prompts")


def test_the_options_page_is_the_schema() -> None:
    """docs/options.md is what `python -m leco_plugin.config.describe` prints."""
    assert (ROOT / "docs" / "options.md").read_text("utf-8") == page()


def test_the_examples_of_the_docs_can_be_run(tmp_path: Path) -> None:
    """The slider of the five-minute path loads as it stands: prompts first, then a job with them."""
    toml = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    jobs = re.findall(r"```yaml\n(.*?)```", doc("jobs"), re.DOTALL)
    (tmp_path / "size.toml").write_text(toml[0], "utf-8")
    assert len(load_prompts(tmp_path / "size.toml").pairs) == 4
    (tmp_path / "job.yaml").write_text(jobs[0], "utf-8")
    assert load_job(tmp_path / "job.yaml").warnings == ()


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "leco_plugin/tiny/CARD.md"]
"""Files outside docs, as they lie; mkdocs checks the links of docs."""


def test_the_readme_is_short() -> None:
    """What it is, two commands, a first slider, and links."""
    assert len(README.splitlines()) <= 150
    slider = README.partition("## Your own slider")[2].partition("\n")[2].partition("[What the figures say]")[0].strip()
    assert "**5." in slider
    # the page shows pictures between them
    for paragraph in slider.replace("](docs/", "](").split("\n\n"):
        assert paragraph in doc("index")


@pytest.mark.parametrize("page_name", PAGES)
def test_links_lead_somewhere(page_name: str) -> None:
    """Every link to a file of the project finds it."""
    text = (ROOT / page_name).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page_name).parent / target).exists(), target
