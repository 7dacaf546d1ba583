"""The host's own programs: its command line and its web UI."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leco_plugin.config.build import build_section
from leco_plugin.config.files import read_document
from leco_plugin.config.findings import refusal
from leco_plugin.config.recognise import Kind, expect
from leco_plugin.errors import ConfigError, PluginError
from leco_plugin.hosts.ai_toolkit.job import leco_processes
from leco_plugin.hosts.folders import HostParser, folder_of
from leco_plugin.streams import write_lines

NAME = "ai-toolkit"
_UI = "http://localhost:8675"


def run(arguments: Sequence[str]) -> int:
    """Run jobs one after the other with the host's run.py; its exit code."""
    parser = HostParser("run", NAME, "Run jobs in ai-toolkit, one after the other.")
    parser.add_root()
    parser.add_argument("jobs", type=Path, nargs="+", metavar="JOB", help="job file (YAML or JSON)")
    given = parser.parse_args(list(arguments))
    jobs = [str(_existing(job).absolute()) for job in given.jobs]
    return _call([sys.executable, "run.py", *jobs], folder_of(NAME, given.root))


def ui(arguments: Sequence[str]) -> int:
    """Build and start the host's web UI, until it is stopped; its exit code."""
    parser = HostParser("ui", NAME, f"Start the web UI of ai-toolkit, at {_UI}.")
    parser.add_root()
    root = folder_of(NAME, parser.parse_args(list(arguments)).root)
    npm = shutil.which("npm")
    if npm is None:
        raise PluginError("the web UI of ai-toolkit needs npm, which is not installed", fix="install Node.js")
    return _call([npm, "run", "build_and_start"], root / "ui")


def submit(arguments: Sequence[str]) -> int:
    """Put a job into the queue of the host's web UI, which has to be running; 0."""
    parser = HostParser("submit", NAME, "Put a job into the queue of ai-toolkit's web UI.")
    parser.add_argument("job", type=Path, metavar="JOB", help="job file (YAML or JSON)")
    parser.add_argument("--url", default=_UI, help="where the UI is (default: %(default)s)")
    parser.add_argument("--gpu", default="0", metavar="N", help="GPU whose queue it goes into (default: %(default)s)")
    parser.add_argument("--hold", action="store_true", help="leave it to the UI to start it")
    given = parser.parse_args(list(arguments))
    job = ui_job(_existing(given.job))
    server = _Server(given.url.rstrip("/"))
    # its pages look for a job's files there, whatever the job says
    folder = server.ask("/api/settings").get("TRAINING_FOLDER")
    for process in job["config"]["process"]:
        process["training_folder"] = folder or process.get("training_folder")
    name = job["config"]["name"]
    made = server.ask("/api/jobs", {"name": name, "gpu_ids": given.gpu, "job_config": job})
    if not given.hold:
        server.ask(f"/api/jobs/{made['id']}/start")
        server.ask(f"/api/queue/{given.gpu}/start")
    state = "waits in the UI" if given.hold else f"is in the queue of GPU {given.gpu}"
    write_lines(sys.stdout, [f"{name} {state}: {given.url.rstrip('/')}/jobs/{made['id']}"])
    return 0


def ui_job(path: Path) -> dict[str, Any]:
    """A job as the UI takes it: with what its pages look for, and prompts found from wherever it is run.

    Raises ConfigError for a job with mistakes in its LECO part, and for one that is none.
    """
    document = read_document(path)
    numbers = leco_processes(document.tree)
    if not numbers:
        raise refusal(path, "this is no job of ai-toolkit with `type: leco`; see docs/ai-toolkit.md")
    job: dict[str, Any] = json.loads(json.dumps(document.tree))
    for number in numbers:
        process = job["config"]["process"][number]
        build_section(document, number)
        process.setdefault("datasets", [])
        sample = process.setdefault("sample", {})
        sample["samples"] = sample.get("samples") or [{"prompt": p} for p in sample.get("prompts", [])]
        process.setdefault("logging", {}).setdefault("use_ui_logger", True)
        process["logging"].setdefault("log_every", 1)
        if prompts := process["leco"].get("prompts_file"):
            # the UI runs a copy of the job in another folder
            process["leco"]["prompts_file"] = str((path.parent / prompts).absolute())
    job["config"]["name"] = job["config"]["name"].replace("[name]", path.stem)
    return job


class _Server:
    """The host's web UI."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, place: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Its answer; PluginError where it does not take what is asked."""
        if not self._url.startswith(("http://", "https://")):
            raise PluginError(f"{self._url} is no address of a web page", fix=f"--url {_UI}")
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get("AI_TOOLKIT_AUTH"):
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + place, data, headers)  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            raise PluginError(
                f"ai-toolkit's UI answers {error.code}: {_said(error)}",
                fix=_FIXES.get(error.code, "see what the UI's own log says"),
            ) from None
        except (OSError, ValueError) as error:
            raise PluginError(
                f"no web UI of ai-toolkit answers at {self._url}: {error}", fix="leco host ui ai-toolkit"
            ) from None
        return found


_FIXES: Mapping[int, str] = {
    401: "set the environment variable AI_TOOLKIT_AUTH to its password",
    409: "a job of this name is there already: change config.name, or delete that job in the UI",
}


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _existing(job: Path) -> Path:
    expect(job, Kind.JOB, Kind.AI_TOOLKIT_JOB)
    if not job.is_file():
        raise ConfigError(f"there is no {job}", fix="name a job file")
    return job


def _call(command: Sequence[str], folder: Path) -> int:
    if not folder.is_dir():
        raise PluginError(f"there is no folder {folder}", fix="give the folder of ai-toolkit with --root")
    return subprocess.call(command, cwd=folder)  # noqa: S603 - the host's own program, which the user asks for
