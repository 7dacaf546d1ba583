"""Hooks: each does what it says, the last registered wins, and what is misspelt stops the start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from models import LineModel, Recorder, tiny_job

import leco_plugin
from leco_plugin import hookspecs
from leco_plugin.config.run import RunDescription, describe_job
from leco_plugin.config.schema import JobConfig
from leco_plugin.contracts import Hooks
from leco_plugin.errors import ModelError, PluginError
from leco_plugin.events import RunEnded, RunStarted, Saved, StepDone, Warned
from leco_plugin.plugins import BUILT_IN, find_host, plugin_manager, run_job


@dataclass
class Result:
    """What a host or process of a plugin returns."""

    path: Path = Path("nowhere")
    steps: int = 0
    interrupted: bool = False


class LinePlugin:
    """A whole model family with its own network, without diffusers or PEFT."""

    def __init__(self) -> None:
        self.model = LineModel(lora=0.0)
        self.asked: list[str] = []
        self.recorder = Recorder()

    @leco_plugin.hookimpl
    def leco_load_model(self, job: JobConfig, device: torch.device) -> LineModel | None:
        self.asked.append(f"model {job.model.name_or_path} on {device}")
        return self.model if job.model.name_or_path == "line" else None

    @leco_plugin.hookimpl
    def leco_create_network(self, job: JobConfig, denoiser: Any, seed: int) -> Any:
        if denoiser is not self.model:
            return None
        self.asked.append(f"network with seed {seed}")
        return self.model.network

    @leco_plugin.hookimpl
    def leco_observers(self, run: RunDescription) -> Iterable[Recorder]:
        self.asked.append("observers")
        return [self.recorder]


def line_job(folder: Path, **changes: Any) -> JobConfig:
    pairs = [{"target": "3", "positive": "3", "resolution": (64, 64)}]
    train = {"steps": 60, "lr": 0.2, "max_grad_norm": 0.0}
    return tiny_job(folder, model={"name_or_path": "line"}, pairs=pairs, train=train, **changes)


@pytest.fixture
def line() -> LinePlugin:
    return LinePlugin()


def test_a_plugin_brings_a_model_a_network_and_observers(tmp_path, line):
    """A run of nothing but foreign parts: it learns to turn 3 into -3, and saves through its own network."""
    result = run_job(line_job(tmp_path), manager=plugin_manager([line], installed=False))
    assert line.asked == ["observers", "model line on cpu", "network with seed 5"]
    assert line.model.network.weight.item() == pytest.approx(-6.0, abs=0.5)
    ((path, dtype, said),) = line.model.network.saved
    assert (path, dtype, said["ss_steps"]) == (result.path, "float16", "60")
    assert (said["ss_base_model_version"], said["modelspec.architecture"]) == ("line", "line/lora")
    # this one goes far beyond its goal, and is warned of
    kinds = [type(event) for event in line.recorder.events if not isinstance(event, Warned)]
    assert kinds == [RunStarted, *[StepDone] * 60, Saved, RunEnded]
    reached = [step.goal_reached for step in line.recorder.of(StepDone)]
    assert reached[0] == pytest.approx(0.0, abs=1e-6)
    assert reached[-1] > 0.9


def test_a_plugin_that_declines_leaves_it_to_the_others(tmp_path, line):
    """Asked first, it answers None for a model that is not its own, and the built-in one loads it."""
    result = run_job(tiny_job(tmp_path, train={"steps": 1}), manager=plugin_manager([line], installed=False))
    assert line.asked == ["observers", "model builtin:tiny on cpu"]
    assert result.path.is_file()


class Answering:
    """A plugin whose host and process are known by a word."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.name, self.about = "mine", word
        self.asked: list[tuple[str, object]] = []

    @leco_plugin.hookimpl
    def leco_host(self, hooks: Hooks) -> Any:
        self.asked.append(("host", hooks))
        return self

    @leco_plugin.hookimpl
    def leco_process(self, type: str, job: JobConfig, hooks: Hooks) -> Any:
        self.asked.append((type, job))
        return Finished(self.word)

    def run(self, job: JobConfig) -> Result:
        return Result(Path(self.word))


class Finished:
    """A process that is through at once."""

    def __init__(self, word: str) -> None:
        self.word = word

    def run(self) -> Result:
        return Result(Path(self.word), 1)


def test_a_host_is_chosen_by_its_name(tmp_path):
    """It is handed the job and all hooks; the built-in one stays beside it."""
    plugin = Answering("host")
    manager = plugin_manager([plugin], installed=False)
    assert run_job(tiny_job(tmp_path), host="mine", manager=manager).path == Path("host")
    assert plugin.asked == [("host", manager.hook)]
    assert type(find_host("builtin", manager)).__name__ == "BuiltinHost"


def test_a_host_that_nobody_offers_is_refused(tmp_path):
    """By its name, with the one that is always there."""
    with pytest.raises(PluginError, match="no plugin offers a host called 'comfy'") as caught:
        run_job(tiny_job(tmp_path), host="comfy", manager=plugin_manager(installed=False))
    assert "builtin" in caught.value.problems[0].fix


def test_a_process_is_asked_for_by_type(tmp_path):
    """The built-in host runs what a plugin answers for `leco`."""
    plugin, job = Answering("process"), tiny_job(tmp_path)
    assert run_job(job, manager=plugin_manager([plugin], installed=False)).path == Path("process")
    assert plugin.asked[-1] == ("leco", job)


def test_without_a_process_the_built_in_host_says_so(tmp_path):
    """As when somebody has unregistered it."""
    manager = plugin_manager(installed=False)
    manager.unregister(name="leco-process")
    with pytest.raises(PluginError, match="process 'leco'"):
        run_job(tiny_job(tmp_path), manager=manager)


def test_the_last_registered_wins(tmp_path):
    """Of two hosts with one name; of two processes the first is not asked at all."""
    first, last = Answering("first"), Answering("last")
    manager = plugin_manager([first, last], installed=False)
    assert run_job(tiny_job(tmp_path), host="mine", manager=manager).path == Path("last")
    run_job(tiny_job(tmp_path), manager=manager)
    assert "leco" not in dict(first.asked)


def test_all_observers_are_used(tmp_path, line):
    """Those of every plugin, the console's among them."""
    other = LinePlugin()
    manager = plugin_manager([other, line], installed=False)
    run_job(line_job(tmp_path), manager=manager)
    assert line.recorder.events == other.recorder.events
    observers = [one for some in manager.hook.leco_observers(run=describe_job(line_job(tmp_path))) for one in some]
    assert {line.recorder, other.recorder} < set(observers)
    assert "PlainView" in {type(one).__name__ for one in observers}


def test_an_error_of_a_plugin_is_the_users_to_read(tmp_path):
    """A ModelError comes through as it is."""

    class Refusing:
        @leco_plugin.hookimpl
        def leco_load_model(self, job: JobConfig, device: torch.device) -> None:
            raise ModelError("the licence of this model has not been accepted")

    with pytest.raises(ModelError, match="licence"):
        run_job(tiny_job(tmp_path), manager=plugin_manager([Refusing()], installed=False))


class Hooked:
    """A plugin that does the same in one of its hooks, whichever that is."""

    def __init__(self, hook: str, do: Callable[[], Any]) -> None:
        # a hook is told by its name, so each gets a function of its own
        def called(**_: Any) -> Any:
            return do()

        setattr(self, hook, leco_plugin.hookimpl(called))


def raising(error: BaseException) -> Callable[[], Any]:
    def do() -> None:
        raise error

    return do


class Unspeakable(Exception):
    """Fails when it is asked for its message."""

    def __str__(self) -> str:
        raise ValueError


def half_way() -> Iterator[Recorder]:
    yield Recorder()
    raise KeyError("half way")


HOOKS = ["leco_host", "leco_process", "leco_load_model", "leco_create_network", "leco_pictures", "leco_observers"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("do", "says"),
    [
        (raising(KeyError("colour")), "failed: KeyError: 'colour'"),
        (raising(SystemExit(3)), "failed: SystemExit: 3"),
        (raising(Unspeakable()), "failed: Unspeakable: Unspeakable"),
        (lambda: 7, ""),
        (lambda: LinePlugin, ""),
    ],
    ids=["an error", "an exit", "a silent error", "a number", "a class"],
)
def test_a_hook_that_fails_or_answers_amiss_is_named_with_its_plugin(tmp_path, hook, do, says):
    """In one sentence with a way out, for every hook and every kind of failure."""
    manager = plugin_manager(installed=False)
    manager.register(Hooked(hook, do), "somebodys")
    with pytest.raises(PluginError) as caught:
        run_job(tiny_job(tmp_path, train={"steps": 1}), manager=manager)
    (problem,) = caught.value.problems
    assert problem.message.startswith(f"plugin somebodys: {hook} {says or ''}")
    assert says or "answered with" in problem.message or "not iterable" in problem.message
    assert "update or uninstall" in problem.fix


def test_a_plugin_without_a_name_is_called_by_its_kind(tmp_path):
    """A number would tell nobody anything."""
    plugin = Hooked("leco_process", raising(KeyError("colour")))
    with pytest.raises(PluginError, match="plugin Hooked: leco_process failed"):
        run_job(tiny_job(tmp_path), manager=plugin_manager([plugin], installed=False))


def test_observers_that_come_one_by_one_may_fail_in_between(tmp_path):
    """That is the hook's failure, too; and each of them has to be an observer."""
    for do, says in (
        (half_way, "failed: KeyError"),
        (lambda: [Recorder(), 3], "answered with a int, which has no not"),
    ):
        with pytest.raises(PluginError, match=f"leco_observers {says}"):
            run_job(tiny_job(tmp_path), manager=plugin_manager([Hooked("leco_observers", do)], installed=False))


class Running:
    """A host or process whose run does something."""

    name = "builtin"

    def __init__(self, do: Callable[[], Any]) -> None:
        self.do = do

    def run(self, *_: Any) -> Any:
        return self.do()


@pytest.mark.parametrize("hook", ["leco_host", "leco_process"])
@pytest.mark.parametrize(
    ("do", "says"),
    [
        (raising(ZeroDivisionError("no steps")), "plugin somebodys failed in the run: ZeroDivisionError: no steps"),
        (raising(SystemExit(1)), "plugin somebodys failed in the run: SystemExit: 1"),
        (lambda: None, "the host 'builtin' ended its run with a NoneType, which has no path"),
    ],
)
def test_a_run_that_fails_in_a_plugin_is_blamed_on_it(tmp_path, hook, do, says):
    """By its name; what ends in nothing is no result."""
    manager = plugin_manager(installed=False)
    manager.register(Hooked(hook, lambda: Running(do)), "somebodys")
    with pytest.raises(PluginError) as caught:
        run_job(tiny_job(tmp_path), manager=manager)
    assert caught.value.problems[0].message.startswith(says)


def test_what_fails_in_our_own_code_is_no_plugins_fault(tmp_path, monkeypatch):
    """It stays what it is: a defect with a traceback."""
    from leco_plugin.hosts.builtin import process

    monkeypatch.setattr(process, "check_optimizer", None)
    with pytest.raises(TypeError, match="not callable"):
        run_job(tiny_job(tmp_path), manager=plugin_manager([LinePlugin()], installed=False))


class Shouting(Recorder):
    """An observer that raises at its first step."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def notify(self, event: Any) -> None:
        super().notify(event)
        if isinstance(event, StepDone):
            raise self.error


@pytest.mark.parametrize(
    "error", [SystemExit(2), KeyboardInterrupt(), GeneratorExit(), Unspeakable(), OSError(5, "EIO")]
)
def test_an_observer_ends_no_run_whatever_it_raises(tmp_path, error):
    """It is dropped by name, the others hear of it, and the LoRA is written."""
    shouting, recorder = Shouting(error), Recorder()
    plugin = Hooked("leco_observers", lambda: [shouting, recorder])
    result = run_job(tiny_job(tmp_path), manager=plugin_manager([plugin], installed=False))
    assert result.path.is_file()
    assert len(shouting.of(StepDone)) == 1
    (said,) = [event.message for event in recorder.of(Warned) if "switched off" in event.message]
    assert said.startswith("Shouting failed and was switched off: ")


def test_a_hook_may_take_fewer_arguments(tmp_path):
    """Those that it needs."""

    class Modest:
        @leco_plugin.hookimpl
        def leco_process(self, type: str) -> None:
            seen.append(type)

    seen: list[str] = []
    plugin_manager([Modest()], installed=False).hook.leco_process(type="mine", job=None, hooks=None)
    assert seen == ["mine"]


class Misspelt:
    """Has a hook that there is not."""

    @leco_plugin.hookimpl
    def leco_load_modle(self, job: JobConfig) -> None:
        raise AssertionError


class WrongArgument:
    """Asks for an argument that the hook does not offer."""

    @leco_plugin.hookimpl
    def leco_load_model(self, job: JobConfig, dtype: str) -> None:
        raise AssertionError


@pytest.mark.parametrize(("plugin", "named"), [(Misspelt(), "leco_load_modle"), (WrongArgument(), "dtype")])
def test_a_plugin_that_would_be_ignored_stops_the_start(plugin, named):
    """What is wrong is named, and the fix lists the hooks."""
    with pytest.raises(PluginError, match=named) as caught:
        plugin_manager([plugin], installed=False)
    assert type(plugin).__name__ in str(caught.value)
    assert "leco_load_model" in caught.value.problems[0].fix


def test_built_in_plugins_have_names():
    """So that others can unregister them one by one; nothing else is there without installed packages."""
    manager = plugin_manager(installed=False)
    assert {name for name, _ in manager.list_name_plugin()} == set(BUILT_IN)
    for name, module in BUILT_IN.items():
        assert manager.get_plugin(name) is sys.modules[module]
    assert set(BUILT_IN) >= {"builtin-host", "builtin-model", "builtin-network", "leco-process", "observers"}


def test_every_hook_has_a_built_in_answer_and_a_rule():
    """At most six of them; each says when it is called and who wins."""
    names = {name for name in vars(hookspecs) if name.startswith("leco_")}
    manager = plugin_manager(installed=False)
    assert names == {caller.spec.name for caller in vars(manager.hook).values() if getattr(caller, "spec", None)}
    assert len(names) <= 6
    for name in names:
        assert getattr(manager.hook, name).get_hookimpls(), name
        assert "Called once per run" in getattr(hookspecs, name).__doc__


class FakeEntryPoint:
    """An entry point of an installed package."""

    group, name = "leco_plugin", "somebodys"

    def __init__(self, plugin: object) -> None:
        self.plugin = plugin

    def load(self) -> object:
        return self.plugin


@dataclass
class FakeDistribution:
    """An installed package with one entry point."""

    entry_points: Sequence[FakeEntryPoint]
    metadata: Mapping[str, str]


@contextmanager
def installed_plugin(monkeypatch: pytest.MonkeyPatch, plugin: object) -> Iterator[None]:
    distribution = FakeDistribution([FakeEntryPoint(plugin)], {"name": "somebodys-package"})
    with monkeypatch.context() as patch:
        patch.setattr(metadata, "distributions", lambda: [distribution])
        yield


def test_installed_packages_are_found_by_their_entry_point(monkeypatch, tmp_path):
    """After the built-in plugins, so that they win; one that is misspelt is named as it is registered."""
    module = ModuleType("somebodys_plugin")
    answering = Answering("installed")
    answering.name = "builtin"
    module.leco_host = leco_plugin.hookimpl(lambda hooks: answering)
    with installed_plugin(monkeypatch, module):
        manager = plugin_manager()
        assert manager.has_plugin("somebodys")
        assert run_job(tiny_job(tmp_path), manager=manager).path == Path("installed")
        assert not plugin_manager(installed=False).has_plugin("somebodys")
    with installed_plugin(monkeypatch, Misspelt()), pytest.raises(PluginError, match=r"plugin somebodys: .*modle"):
        plugin_manager()
