"""Jobs on a Ray cluster of two nodes: the same LoRAs as here, also where a node is lost in the middle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from leco_plugin.commands import main as cli
from leco_plugin.config.build import load_job
from leco_plugin.errors import ConfigError
from leco_plugin.families.known import settle
from leco_plugin.hosts import ray_cluster
from leco_plugin.plugins import run_job

JOB = """\
job: extension
config:
  name: {name}
  process:
    - type: leco
      training_folder: {folder}
      device: cpu
      training_seed: {seed}
      model: {{name_or_path: builtin:tiny}}
      network: {{linear: 2, linear_alpha: 2}}
      train: {{steps: 30, lr: 1e-3}}
      save: {{dtype: float32, save_state: true, save_every: 5, max_step_saves_to_keep: 2}}
      leco:
        max_denoising_steps: 10
        prompts:
          - {{target: red, positive: red, resolution: 64}}
"""


@pytest.fixture
def jobs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.yaml" for name in ("one", "two", "three")]
    for seed, path in enumerate(paths):
        path.write_text(JOB.format(name=path.stem, seed=seed, folder=(tmp_path / "out").as_posix()))
    return paths


def test_without_ray_it_is_said_what_to_install(jobs, monkeypatch, capsys):
    """Before anything is trained."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["train", *map(str, jobs), "--ray"]) == 2
    assert "--ray needs the package ray" in capsys.readouterr().err


def test_a_job_is_no_address(jobs, capsys):
    """What stands behind --ray is its address."""
    assert cli.main(["train", "--ray", *map(str, jobs)]) == 2
    assert f"--ray {jobs[0]}: that is a file, not an address\n  fix: put --ray after" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_one_sentence():
    """With its address."""
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"there is no Ray cluster at 127\.0\.0\.1:1"):
        list(ray_cluster.train_on_cluster({}, "127.0.0.1:1"))


def test_a_lost_node_costs_no_lora(jobs, tmp_path, monkeypatch, capsys):
    """It is killed once a state has come back from each; what ran there goes on from it, bit for bit."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    for path in jobs:
        run_job(settle(load_job(path, {"training_folder": str(tmp_path / "alone")}).job).job)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    # Ray's workers leave a busy machine to all others
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    lost: list[str] = []
    take = ray_cluster._Crowd._take

    def taking(self: Any, path: Path, said: Any) -> None:
        take(self, path, said)
        out = tmp_path / "out"
        if second is not None and not lost and len(list(out.glob("*/*-step*-state/manifest.json"))) >= 2:
            cluster.remove_node(second, allow_graceful=False)
            lost.append(str(path))

    monkeypatch.setattr(ray_cluster._Crowd, "_take", taking)
    try:
        assert cli.main(["train", *map(str, jobs), "--ray", cluster.address]) == 0
    finally:
        ray.shutdown()
        cluster.shutdown()
    out = capsys.readouterr().out
    assert lost
    assert "its machine is lost; it goes on with another" in out
    for path in jobs:
        written = f"{path.stem}/{path.stem}.safetensors"
        assert (tmp_path / "out" / written).read_bytes() == (tmp_path / "alone" / written).read_bytes()
        folder = tmp_path / "out" / path.stem
        assert len(list(folder.glob("*-step*.safetensors"))) == 2
        assert f"{path}: finished after 30 steps" in out
