"""Jobs of ai-toolkit, and our own, which have the same shape: their prompts and their settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from leco_converters.anchors import preserve_anchors
from leco_converters.prompt_tables import entries, joined, keep_texts, leave_out, merged, top
from leco_converters.read import read_source
from leco_converters.report import Report
from leco_converters.request import Plan
from leco_converters.tree import Node, Source, plain
from leco_plugin.config.build import load_job
from leco_plugin.config.findings import key_text
from leco_plugin.config.schema import LecoConfig
from leco_plugin.errors import ConfigError, Problem, Where

ReadPrompts = Callable[[Source, Report], Node]
_TARGET_KEYS = frozenset({"target_class", "positive", "negative", "multiplier", "weight"})
_SLIDERS = ("slider", "slider_old", "ultimate_slider_trainer", "concept_slider")
_LOST_SLIDERS = {"concept_replacer", "image_reference_slider_trainer"}
_CONCEPT_KEYS = {
    "target_class": "target_class",
    "positive_prompt": "positive",
    "negative_prompt": "negative",
    "guidance_strength": "guidance_scale",
}


def plan_job(source: Source, read_prompts: ReadPrompts) -> Plan:
    """Take prompts and settings out of a job; raises ConfigError where it trains no slider."""
    config = _table(source, source.root.table.get("config"), "config")
    processes = config.table.get("process")
    if processes is None or not processes.items:
        raise _refuse(
            source, processes or config, "there is no list of processes", "write 'process:' and '- type: slider'"
        )
    for process in processes.items:
        _table(source, process, "process")
    if any(_type(process) == "leco" for process in processes.items):
        return _our_job(source, read_prompts)
    report = Report()
    _fill_name(source, config, report)
    roots: list[Node] = []
    used: list[Node] = []
    for process in processes.items:
        kind = _type(process)
        if kind not in _SLIDERS:
            what = "needs pictures" if kind in _LOST_SLIDERS else "is no slider"
            report.note("lost", source, process, f"a process of the type {kind!a} {what}", "left out")
            continue
        roots.append(
            _concept(source, process, report) if kind == "concept_slider" else _slider(source, process, report)
        )
        used.append(process)
    if not roots:
        kinds = ", ".join(repr(_type(process)) for process in processes.items)
        raise _refuse(source, processes, f"no process of this job trains a slider from prompts, but {kinds}", "")
    if len(used) > 1:
        _note_several(source, used, report)
    preserve_anchors(roots, source, report)
    job = _single(source.root, config, processes, used[0])
    return Plan("ai-toolkit", source, merged(roots), source, job, report)


def _our_job(source: Source, read_prompts: ReadPrompts) -> Plan:
    report = Report()
    load_job(source.path)
    config = source.root.table["config"]
    process = config.table["process"].items[0]
    leco = process.table["leco"]
    preserve = leco.table.get("preserve")
    options = {name: leco.table[name] for name in leco.table if name in LecoConfig.model_fields and name != "preserve"}
    job = _single(source.root, config, config.table["process"], process)
    if "prompts_file" in leco.table:
        options["prompts_file"] = leco.table["prompts_file"].omitted()
    job.table["config"].table["process"].items[0].table["leco"] = leco.like(options)
    if "prompts_file" in leco.table:
        prompt_source = read_source(source.path.parent / str(leco.table["prompts_file"].value))
        prompts = read_prompts(prompt_source, report)
        # its key and line are none of the prompt file
        _add_preserved(prompts, preserve and replace(preserve, key=(), line=None))
        return Plan("leco-job", source, prompts, prompt_source, job, report)
    prompts = Node(
        {name: child for name, child in leco.table.items() if name not in (*options, "preserve")}, leco.key, leco.line
    )
    _add_preserved(prompts, preserve)
    return Plan("leco-job", source, prompts, source, job, report)


def _add_preserved(prompts: Node, preserve: Node | None) -> None:
    """Put what the job preserves above what its prompts do: a prompt file can hold it too."""
    if preserve is not None:
        holder = top(prompts)
        own = [holder.table["preserve"]] if "preserve" in holder.table else []
        holder.value = {**holder.table, "preserve": joined([preserve, *own])}


def _slider(source: Source, process: Node, report: Report) -> Node:
    """Return the targets of a `slider` process, with what its trainer fixes written out."""
    section = _table(source, process.table.get("slider"), "slider", process)
    if not isinstance(section.table.get("targets", Node(None)).value, list):
        raise _refuse(source, section, "there is no list of targets", "write 'targets:' and '- target_class: ...'")
    keep_texts(section, source, report)
    table = {
        "guidance_scale": section.beside(1.0),
        "neutral": section.beside(""),
    }
    report.note("changed", source, section, "the trainer fixes the edit strength at 1 and the neutral prompt at ''",
                "written out as guidance_scale and neutral")  # fmt: skip
    report.note(
        "changed", source, section, "the trainer's walk runs with the LoRA off", "here it runs with the LoRA on"
    )
    batch = process.table.get("train", Node({})).table.get("batch_size")
    if batch is not None:
        table["batch_size"] = batch.beside(batch.value)
    for name, child in section.table.items():
        if name == "targets":
            items = entries(child, _TARGET_KEYS, source, report)
            for item in items:
                if isinstance(item.value, dict):
                    item.value.setdefault("target_class", item.beside(""))
            table["targets"] = child.like(items)
            _note_trimmed(source, process, child, items, report)
        elif name == "resolutions":
            table[name] = _sizes(source, child, report)
        elif name == "prompt_file":
            was = "it repeats the pairs once per line, and its text never reaches the loss"
            report.note("lost", source, child, was, "left out; as neutral_prompt_file it would change the loss")
            table["prompt_file"] = child.omitted()
        elif name == "anchors":
            table[name] = child
        else:
            table[name] = leave_out(child, name, source, report)
    return Node(table)


def _concept(source: Source, process: Node, report: Report) -> Node:
    """Return the one target of a `concept_slider` process, which starts from its class."""
    section = _table(source, process.table.get("slider"), "slider", process)
    section.value = {_CONCEPT_KEYS.get(name, name): child for name, child in section.table.items()}
    keep_texts(section, source, report)
    target: dict[str, Node] = {"target_class": section.beside("")}
    left: dict[str, Node] = {}
    for name, child in section.table.items():
        if name in _CONCEPT_KEYS.values():
            target[name] = child
        else:
            left[name] = child if name == "anchor_class" else leave_out(child, name, source, report)
    if "guidance_scale" not in target:
        target["guidance_scale"] = section.beside(3.0)
        report.note("added", source, section, "guidance_strength is 3 there when it is not written", "written out")
    else:
        report.note("changed", source, target["guidance_scale"], "guidance_strength", "is guidance_scale here")
    target["neutral"] = target["target_class"].beside(target["target_class"].value)
    was = "a concept slider noises pictures of a data set"
    report.note("changed", source, section, was, "here it trains on what the model draws; neutral is the target_class")
    return Node({**left, "targets": section.beside([section.like(target)])})


def _sizes(source: Source, node: Node, report: Report) -> Node:
    """Keep the sizes in their order, which is height first whatever ai-toolkit's comment says."""
    for size in node.items:
        if len(size.items) != 2:
            fix = "write it as [[512, 512]]"
            raise _refuse(source, size, "every resolution is a list of two numbers", fix)
        if size.items[0].value != size.items[1].value:
            was = "its documentation says [width, height], its code reads [height, width]"
            report.note("changed", source, size, was, "kept as [height, width]")
    if not node.items:
        raise _refuse(source, node, "there is no list of resolutions", "write it as [[512, 512]]")
    return node


def _note_trimmed(source: Source, process: Node, node: Node, items: list[Node], report: Report) -> None:
    steps = process.table.get("train", Node({})).table.get("steps", Node(1000)).value
    if isinstance(steps, int) and len(items) > steps:
        was = f"the trainer drops all but the first {steps} of {len(items)} targets, one per step"
        report.note("changed", source, node, was, "all are written")


def _note_several(source: Source, used: list[Node], report: Report) -> None:
    """Say what one run cannot keep of several."""
    first, *others = used
    for process in others:
        was = "every process trains its own LoRA, one after the other"
        report.note("changed", source, process, was, "its targets join those of the first: one LoRA for all")
        for name, section in process.table.items():
            if name not in ("slider", "type") and plain(section) != plain(first.table.get(name, Node(None))):
                report.note(
                    "lost", source, section, f"this process has {name} settings of its own", "the first's count"
                )


def _fill_name(source: Source, config: Node, report: Report) -> None:
    """Put the job's name where `[name]` stands, as ai-toolkit does in every text."""
    name = config.table.get("name", Node(None)).value
    for node in _texts(source.root):
        text = str(node.value)
        if "[name]" in text and isinstance(name, str) and text != name:
            node.value, node.raw = text.replace("[name]", name), ""
            report.note("changed", source, node, "[name] stands for the name of the job", "filled in")
        if "${" in text:
            was = "ai-toolkit puts the value of an environment variable here"
            report.note("changed", source, node, was, "kept as it is written")


def _texts(node: Node) -> list[Node]:
    found, pending = [], [node]
    while pending:
        one = pending.pop()
        if isinstance(one.value, str) and ("[" in one.value or "$" in one.value):
            found.append(one)
        pending += [*one.table.values(), *one.items]
    return found


def _single(root: Node, config: Node, processes: Node, process: Node) -> Node:
    """Return the job with this process alone; the tables are new, their entries are shared."""
    settings = process.like({name: child for name, child in process.table.items() if name != "slider"})
    if "slider" in process.table:
        settings.table["leco"] = process.table["slider"].like({})
    new_config = config.like({**config.table, "process": processes.like([settings])})
    return root.like({**root.table, "config": new_config})


def _type(process: Node) -> str:
    return str(process.table["type"].value) if "type" in process.table else ""


def _table(source: Source, node: Node | None, name: str, parent: Node | None = None) -> Node:
    if node is None or not isinstance(node.value, dict):
        found = "is missing" if node is None else "must be a table of keys"
        raise _refuse(
            source, node or parent or source.root, f"{name} {found}", f"write '{name}:' and its keys below it"
        )
    return node


def _refuse(source: Source, node: Node, message: str, fix: str) -> ConfigError:
    return ConfigError(Problem(Where(source.path, node.line, key_text(node.key)), message, fix))


def prompts_beside(source: Source, node: Node) -> Path:
    """Find the prompt file that a settings file names: beside it, or from the folder that the command runs in."""
    name = str(node.value)
    for folder in (source.path.parent, Path.cwd()):
        if (folder / name).is_file():
            return folder / name
    raise _refuse(source, node, f"there is no file '{name}'", "it is relative to this file, or to the current folder")
