"""ai-toolkit's own programs: its command line, and the queue of its web UI, for which a small server stands in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from leco_plugin.commands.main import main

JOB = """\
job: extension
config:
  name: size
  process:
  - type: leco
    training_folder: output
    model: {name_or_path: some/model, arch: sdxl}
    network: {type: lora, linear: 4}
    sample: {prompts: ["a dog --m -1"], samples: []}
    leco: {prompts_file: size.toml}
"""
PROMPTS = '[[targets]]\ntarget = "a dog"\npositive = "a big dog"\nunconditional = "a dog"\n'


class Ui(ThreadingHTTPServer):
    """Answers as the UI's routes do, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.password = ""
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Ui

    def do_GET(self) -> None:
        self._answer({"TRAINING_FOLDER": "/ui/output"} if self.path == "/api/settings" else {"id": "7"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = body["name"] in [asked["name"] for _, asked in self.server.asked if asked]
        self._answer({"error": "Job name already exists"} if known else {"id": "7"}, 409 if known else 200, body)

    def _answer(self, answer: object, code: int = 200, body: Any = None) -> None:
        if self.server.password and self.headers.get("Authorization") != f"Bearer {self.server.password}":
            answer, code = {"error": "Unauthorized"}, 401
        self.server.asked.append((self.path, body))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def ui() -> Iterator[Ui]:
    server = Ui()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "size.toml").write_text(PROMPTS)
    path = tmp_path / "size.yaml"
    path.write_text(JOB)
    return path


def test_a_job_goes_into_the_queue_of_the_ui(ui, job, capsys):
    """With what its pages look for, in its own folder, with prompts that are found from there; then it starts."""
    assert main(["host", "submit", "ai-toolkit", str(job), "--url", ui.url, "--gpu", "1"]) == 0
    assert [path for path, _ in ui.asked] == [
        "/api/settings", "/api/jobs", "/api/jobs/7/start", "/api/queue/1/start",
    ]  # fmt: skip
    body = ui.asked[1][1]
    process = body["job_config"]["config"]["process"][0]
    assert (body["name"], body["gpu_ids"], process["training_folder"]) == ("size", "1", "/ui/output")
    assert (process["datasets"], process["sample"]["samples"]) == ([], [{"prompt": "a dog --m -1"}])
    assert process["leco"]["prompts_file"] == str(job.parent / "size.toml")
    assert f"{ui.url}/jobs/7" in capsys.readouterr().out


def test_a_job_may_wait_in_the_ui(ui, job, capsys):
    """Nothing is started then; a second job of the same name is refused with what to do."""
    assert main(["host", "submit", "ai-toolkit", str(job), "--url", ui.url, "--hold"]) == 0
    assert [path for path, _ in ui.asked] == ["/api/settings", "/api/jobs"]
    assert main(["host", "submit", "ai-toolkit", str(job), "--url", ui.url]) == 2
    shown = capsys.readouterr()
    assert "409: Job name already exists" in shown.err
    assert "change config.name" in shown.err


def test_a_password_comes_from_the_environment(ui, job, capsys, monkeypatch):
    """As the UI's own does."""
    ui.password = "secret"
    monkeypatch.delenv("AI_TOOLKIT_AUTH", raising=False)
    assert main(["host", "submit", "ai-toolkit", str(job), "--url", ui.url]) == 2
    assert "AI_TOOLKIT_AUTH" in capsys.readouterr().err
    monkeypatch.setenv("AI_TOOLKIT_AUTH", "secret")
    assert main(["host", "submit", "ai-toolkit", str(job), "--url", ui.url]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [(JOB.replace("prompts_file: size.toml", "walks: pool"), "walks: unknown key"),
     (JOB.replace("type: leco", "type: sd_trainer"), "no job of ai-toolkit with `type: leco`")],
)  # fmt: skip
def test_a_job_with_mistakes_is_not_submitted(ui, job, capsys, text, message):
    """The UI would only say so when it is run."""
    job.write_text(text)
    assert main(["host", "submit", "ai-toolkit", str(job), "--url", ui.url]) == 2
    assert message in capsys.readouterr().err
    assert ui.asked == []


def test_without_a_ui_nothing_is_submitted(job, capsys):
    """With how to start it."""
    assert main(["host", "submit", "ai-toolkit", str(job), "--url", "http://127.0.0.1:9"]) == 2
    assert "leco host ui ai-toolkit" in capsys.readouterr().err


def test_jobs_are_run_by_the_hosts_own_program(job, tmp_path, capfd):
    """In its folder, with the exit code that it ends with; the job is named from where the user is."""
    root = tmp_path / "host"
    root.mkdir()
    (root / "run.py").write_text("import os, sys\nprint(os.getcwd(), sys.argv[1:])\nsys.exit(3)\n")
    assert main(["host", "run", "ai-toolkit", "--root", str(root), str(job)]) == 3
    assert capfd.readouterr().out.split() == [str(root), f"['{job}']"]
    assert main(["host", "run", "ai-toolkit", "--root", str(root), "none.yaml"]) == 2
