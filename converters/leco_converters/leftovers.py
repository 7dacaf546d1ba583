"""What a prompt file cannot hold of a job: kept as comments at its end, so that no text is lost."""

from __future__ import annotations

from leco_converters.request import Plan
from leco_converters.tree import Node
from leco_converters.yaml_text import commented

_SAID_ELSEWHERE = ("job", "type", "name", "meta")
"""Keys that say what file this is; without them nothing is trained otherwise."""


def run_settings(plan: Plan, *, noted: bool) -> list[str]:
    """Return the settings of the run as comment lines; each goes to the report, unless it is ``noted`` there."""
    if plan.job is None or plan.process is None:
        return []
    config = plan.job.table["config"]
    listed = config.table["process"]
    lines: list[str] = [] if plan.source is plan.prompt_source else list(plan.source.head)
    for table in (plan.job, config, listed, plan.process, plan.process.table.get("leco", Node({}))):
        lines += [*table.before, *([table.after] if table.after else [])]
        for name, node in table.table.items():
            if name in ("config", "process", "leco") or (node.line is None and name not in plan.process.table):
                continue
            if not noted and not node.left_out and name not in _SAID_ELSEWHERE:
                was = "a setting of the run, which a prompt file does not hold"
                plan.report.note("lost", plan.source, node, was, "kept as a comment; --job writes it to a job file")
            lines += commented(name, node, heading="")
    if plan.source is not plan.prompt_source:
        lines += plan.source.tail
    return ["", f"# Not carried over from {plan.source.path.name}:", "", *lines]
