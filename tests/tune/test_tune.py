"""`leco tune`: what is tried, which trial is best, and a winner whose job file says what it was trained with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from leco_plugin.commands import main as cli
from leco_plugin.config.build import load_job
from leco_plugin.errors import ConfigError
from leco_plugin.families.known import settle
from leco_plugin.tune.plan import planned
from leco_plugin.tune.run import write_job
from leco_plugin.tune.space import Range, Settings, job_with, named_space, own_settings, usual_space
from leco_plugin.tune.study import Study, Tried, best_of
from leco_plugin.tune.trial import Found

ROOT = Path(__file__).parents[2]
JOB = """\
job: extension
config:
  name: tuned
  process:
    - type: leco
      training_folder: {folder}
      device: cpu
      training_seed: 1
      model: {{name_or_path: builtin:tiny}}
      network: {{linear: 4, linear_alpha: 2}}
      train: {{steps: 4, lr: 1e-5}}
      leco:
        max_denoising_steps: 4
        preserve: [a blue shape]
        prompts:
          - {{target: a shape, positive: a big shape, neutral: a shape, action: enhance, resolution: 64}}
          - {{target: a shape, positive: a big shape, neutral: a shape, resolution: 64, multiplier: -1}}
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(folder=(tmp_path / "out").as_posix()))
    return path


def test_settings_of_a_trial_are_those_of_the_job_but_for_what_is_tried(job):
    """A rank keeps alpha / rank, and an edit strength is a factor on every pair's."""
    own = settle(load_job(job).job).job
    changed = job_with(job, {}, {"network.linear": 8, "guidance_scale": 1.5, "train.lr": 1e-3})
    assert (changed.network.linear, changed.network.linear_alpha, changed.train.lr) == (8, 4.0, 1e-3)
    assert [pair.guidance_scale for pair in changed.pairs] == [1.5, 1.5]
    space = usual_space(settle(load_job(job).job))
    assert own_settings(own, space) == {
        "train.lr": 1e-5, "network.linear": 4, "train.steps": 4, "guidance_scale": 1.0,
        "leco.preserve_weight": 1.0, "leco.denoise_guidance_scale": 3.0,
    }  # fmt: skip
    assert job_with(job, {}, own_settings(own, space)) == own


def test_a_job_that_preserves_nothing_may_keep_what_drift_is_measured_on(job):
    """The empty prompt, for a slider whose other prompts are all edited."""
    job.write_text(job.read_text().replace("preserve: [a blue shape]", "walk: fresh"))
    settled = settle(load_job(job).job)
    assert usual_space(settled)["preserve"] == (False, True)
    assert own_settings(settled.job, usual_space(settled))["preserve"] is False
    assert job_with(job, {}, {"preserve": False}).leco.preserve == ()
    assert job_with(job, {}, {"preserve": True}).leco.preserve == ("",)


def test_values_that_a_user_names_are_all_that_is_tried():
    """As they would stand in a job."""
    assert named_space(["train.lr=1e-4,1e-3", "network.type=lora,loha"]) == {
        "train.lr": [1e-4, 1e-3],
        "network.type": ["lora", "loha"],
    }
    for wrong in ("train.lr", "train.lr=1e-4"):
        with pytest.raises(ConfigError, match="nothing to choose from"):
            named_space([wrong])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.lr": 1e-1, "train.steps": 200, "network.linear": 3},
        {"train.unet_lr": 1e-4, "train.steps": 1, "network.linear": 1, "leco.denoise_guidance_scale": 0.5},
    ],
)
def test_what_a_job_itself_says_is_within_the_ranges(job, changes):
    """However odd it is; and so is its family's rate."""
    settled = settle(load_job(job, changes).job)
    space = usual_space(settled)
    for key, value in own_settings(settled.job, space).items():
        tried = space[key]
        assert tried.low <= value <= tried.high if isinstance(tried, Range) else value in tried
    rate = space["train.unet_lr" if "train.unet_lr" in changes else "train.lr"]
    assert rate.low < 1e-3 < rate.high


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Found(0.5, 0.5, 0.1, 0.1), Found(0.4, 0.5, 0.1, 0.1)),
        (Found(0.5, 0.5, 0.1, 0.1), Found(0.6, 0.5, 0.1, 0.1)),
        (Found(0.5, 0.5, 0.1, 0.1), Found(0.5, 0.5, 0.3, 0.1)),
        (Found(0.5, 0.5, 0.1, 0.1), Found(0.5, 0.5, 0.1, 0.3)),
        (Found(0.3, 0.5, 0.5, 0.9), Found(0.0, 0.5, 0.0, 0.0)),
        (Found(0.3, 0.5, 0.5, 0.9), Found(0.5, 0.5, 0.5, 1.6)),
    ],
)
def test_the_effect_counts_and_what_comes_with_it(better, worse):
    """Too little, too much, a side effect and drift are all worse; worst is no effect at all."""
    assert better.score(1.0) > worse.score(1.0)


def test_what_a_trial_promises_does_not_hang_on_how_far_it_came():
    """Half of the effect with half of what comes with it; up to the limit of drift, and not beyond four times."""
    half = Found(0.2, 0.4, side_effect=0.1, drift=0.2)
    assert half.promise(1.0) == pytest.approx(0.5 * 2**0.85 - 0.1 * (0.2 + 0.4))
    drifts = Found(0.2, 0.4, side_effect=0.1, drift=0.5)
    assert drifts.promise(0.5) == pytest.approx(0.5 * 0.95**0.85 - 0.1 * (0.095 + 0.475))
    assert Found(0.01, 0.4, 0.0, 0.0).promise(1.0) == pytest.approx(0.025 * 4**0.85)
    assert Found(-0.1, 0.4, 0.1, 0.1).promise(1.0) < half.score(1.0) < half.promise(1.0)


def test_the_best_stays_within_the_limit_of_drift():
    """However good it is otherwise; where none does, the one that drifts least."""
    wild = Tried(0, {}, "complete", Found(1.0, 1.0, 0.0, 1.5))
    tame = Tried(1, {}, "complete", Found(0.3, 1.0, 0.2, 0.9))
    assert best_of([wild, tame, Tried(2, {}, "pruned")], 1.0) is tame
    assert best_of([wild, tame], 0.1) is tame
    assert best_of([wild, tame], 2.0) is wild
    assert best_of([], 1.0) is None


def planned_for(path: Path, **changes: object) -> tuple[Settings, Callable[..., Settings | None]]:
    settled = settle(load_job(path, changes).job)
    space = usual_space(settled)
    own = own_settings(settled.job, space)
    return own, planned(settled, own, space, 1.0)


def test_the_job_comes_first_then_its_family_s_rate_then_a_higher_rank(job):
    """The rank with a rate for the effect that is missing: twice as much, of which the rank is good for 1.3."""
    own, plan = planned_for(job)
    assert plan(0, []) == own
    usual = {**own, "train.lr": 1e-3}
    assert plan(1, [Tried(0, own, "complete", Found(0.0, 0.4, 0.0, 0.0))]) == usual
    tried = [Tried(1, usual, "complete", Found(0.2, 0.4, 0.1, 0.2)), Tried(0, own, "fail")]
    assert plan(2, tried) == {**usual, "network.linear": 16, "train.lr": pytest.approx(1e-3 * (2 / 1.3) ** 1.7)}
    assert plan(2, tried[1:]) is None
    idle, plan = planned_for(job, **{"train.lr": 0})
    assert plan(0, []) == {**idle, "train.lr": 1e-3}


def test_what_promises_most_gets_the_rate_that_it_lacks_in_turn_with_the_sampler(job):
    """Once; not where a trial like it was, nor where two rates have been tried."""
    own, plan = planned_for(job, **{"train.lr": 1e-3})
    slow = Tried(1, {**own, "network.linear": 8}, "complete", Found(0.2, 0.4, 0.1, 0.2))
    tried = [Tried(0, own, "complete", Found(0.4, 0.4, 0.3, 0.9)), slow]
    assert plan(4, tried) is None
    asked = plan(3, tried)
    assert asked == {**slow.settings, "train.lr": pytest.approx(min(3e-3, 1e-3 * 2**1.7))}
    assert plan(3, [*tried, Tried(2, asked, "pruned")]) is None
    assert plan(3, [*tried, Tried(2, {**slow.settings, "train.lr": 4e-4}, "pruned")]) is None
    assert plan(3, tried[:1]) is None


def landscape(settings: Settings) -> Found:
    """What a trial comes to, about as on builtin:tiny: all grow with the rate, and a strong edit has side effects."""
    rate, rank, edit = settings["train.lr"] / 1e-3, settings["network.linear"] / 4, settings["guidance_scale"]
    power = rate**0.55 * (settings["train.steps"] / 60) ** 0.45
    side = 0.37 * power**0.8 * edit**0.5 * rank**0.05
    return Found(0.27 * power * rank**0.22 * edit**0.2, 0.4, side, 0.77 * power * rank**0.2 * edit**0.3)


@pytest.mark.parametrize(("rate", "seed"), [(1e-3, 0), (1e-3, 1), (1e-4, 0)])
def test_twelve_trials_find_more_effect_within_the_limit_than_the_job_has(job, tmp_path, rate, seed):
    """And a study that was stopped, as one that was killed, tries what it was trying again, and so many in all."""
    pytest.importorskip("optuna")
    settled = settle(load_job(job, {"train.lr": rate, "train.steps": 60}).job)
    space, seen = usual_space(settled), []
    own, stops = own_settings(settled.job, space), [True]

    def attempt(name, asked, enough):
        seen.append(asked)
        return None if stops.pop() else (tmp_path / name, landscape(asked))

    def run():
        study = Study(f"sqlite:///{tmp_path / 'study.db'}", "one", space, "this", seed)
        return study, study.run(attempt, planned(settled, own, space, 1.0), 12, 1.0)

    study, stopped = run()
    assert stopped
    assert study.tried == []
    stops[:] = [False] * 12
    study, stopped = run()
    assert not stopped
    assert len(study.tried) == 12
    assert seen[0] == seen[1] == study.tried[0].settings == own
    best, was = best_of(study.tried, 1.0), study.tried[0].found
    assert best.found.drift <= 1
    assert best.found.effect > 1.15 * was.effect
    assert best.found.score(1.0) > was.score(1.0) + 0.1


def test_a_job_that_is_written_says_the_same(job, tmp_path):
    """Prompts and all."""
    # what the schema has by default, and this family has not
    changed = job_with(job, {}, {"guidance_scale": 0.7, "train.lr": 1e-4, "train.steps": 1600, "preserve": True})
    write_job(tmp_path / "written.yaml", changed)
    assert settle(load_job(tmp_path / "written.yaml").job).job == changed


def tune(job: Path, *arguments: str) -> int:
    return cli.main(["tune", str(job), *arguments])


def test_tune_tries_and_writes_the_winner(job, tmp_path, capsys):
    """The job as it is comes first, and the winner is the trial of the highest score that the database holds."""
    optuna = pytest.importorskip("optuna")
    rates = ["--try", "train.lr=1e-5,3e-3"]
    assert tune(job, *rates, "--trials", "3") == 0
    out = capsys.readouterr().out
    assert "trial-0000: the job as it is" in out
    assert "lr 0.003" in out
    folder = tmp_path / "out" / "tuned-tune"
    best = load_job(folder / "best.yaml").job
    study = optuna.load_study(study_name="tuned", storage=f"sqlite:///{folder / 'study.db'}")
    assert study.trials[0].params == {"train.lr": 1e-5}
    found = {trial.params["train.lr"]: Found(**trial.user_attrs["found"]) for trial in study.trials}
    assert (best.name, best.train.lr) == ("tuned_tuned", max(found, key=lambda rate: found[rate].score(1.0)))
    assert "<html" in (folder / "tune.html").read_text("utf-8")
    assert tune(job, *rates, "--trials", "3") == 0
    assert "trial-0003" not in capsys.readouterr().out
    assert tune(job, *rates, "--set", "train.steps=5") == 2
    assert "the study tuned is of another job" in capsys.readouterr().err
    assert tune(job, "--try", "train.lrr=1,2") == 2
    assert "unknown key" in capsys.readouterr().err


@pytest.mark.skipif(not os.environ.get("LECO_POSTGRES"), reason="LECO_POSTGRES names no PostgreSQL")
def test_two_workers_share_a_study_in_postgresql(job, tmp_path):
    """Each has some of the six trials; who ends last has the winner of all."""
    pytest.importorskip("optuna")
    pytest.importorskip("psycopg")
    # not in the test's own folder, which only its owner can enter: PostgreSQL does not run as root
    programs, data = Path(os.environ["LECO_POSTGRES"]), Path(tempfile.mkdtemp(prefix="leco-pg-"))
    port = "54391"
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if user:
        shutil.chown(data, "postgres")
    subprocess.run([*user, programs / "initdb", "-A", "trust", "-U", "leco", "-D", data], check=True)
    started = [*user, programs / "pg_ctl", "-D", data, "-w", "-l", data / "log"]
    subprocess.run([*started, "-o", f"-p {port} -k {data}", "start"], check=True)
    try:
        url = f"postgresql://leco@127.0.0.1:{port}/postgres"
        command = [sys.executable, "-m", "leco_plugin", "tune", job, "--trials", "6", "--storage", url]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        rates = ["--try", "train.lr=1e-5,1e-3,3e-3"]
        workers = [
            subprocess.Popen(
                [*map(str, command), *rates, "--output", str(tmp_path / name)],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for name in ("first", "second")
        ]  # fmt: skip
        for worker in workers:
            _, err = worker.communicate(timeout=900)
            assert worker.returncode == 0, err
        import optuna

        storage = optuna.storages.RDBStorage(url.replace("postgresql", "postgresql+psycopg"))
        study = optuna.load_study(study_name="tuned", storage=storage)
        assert len({trial.user_attrs["worker"] for trial in study.trials}) == 2
        assert 6 <= len(study.trials) <= 7
        found = {trial.params["train.lr"]: Found(**trial.user_attrs["found"]) for trial in study.trials}
        best = max(found, key=lambda rate: found[rate].score(1.0))
        storage.remove_session()
        storage.engine.dispose()
    finally:
        subprocess.run([*started, "-m", "immediate", "stop"], check=False)
        shutil.rmtree(data, ignore_errors=True)
    found = [yaml.safe_load((tmp_path / name / "best.yaml").read_text()) for name in ("first", "second")]
    assert best in {one["config"]["process"][0]["train"]["lr"] for one in found}
