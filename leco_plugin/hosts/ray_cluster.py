"""Jobs on a Ray cluster, one task each: what they report and write comes back to the caller as it comes.

The files that a run has written are with the caller, so that one whose machine is lost goes on from its last state on
another. The only file that imports Ray.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import socket
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leco_plugin.atomic import write_atomically
from leco_plugin.config.run import RunDescription
from leco_plugin.config.schema import JobConfig
from leco_plugin.errors import ConfigError, LecoError, TrainingError, reason
from leco_plugin.events import Event, PicturesDrawn, RunStarted, Saved
from leco_plugin.hookspecs import hookimpl
from leco_plugin.hosts.builtin.folder import Folder
from leco_plugin.hosts.builtin.resume import NEWEST
from leco_plugin.observers.console.many_view import ManyView

LOCAL = "local"
"""What Ray calls a cluster of its own on this machine, whatever others there are."""
ATTEMPTS = 5
"""Machines that a job may lose before it counts as failed."""
_SECONDS, _REACHED_IN = 1.0, 10.0


def train_on_cluster(jobs: Mapping[Path, JobConfig], address: str) -> Iterator[tuple[Path, LecoError | None]]:
    """Train ``jobs`` on the cluster at ``address``, all that have room at a time; gives each when it has ended.

    Raises ConfigError where Ray is not installed or the cluster is not there.
    """
    ray = _ray()
    own = not ray.is_initialized()
    if own:
        _connect(ray, address)
    try:
        with ManyView([str(path) for path in jobs]) as view:
            yield from _Crowd(ray, jobs, view).run()
    finally:
        if own:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--ray needs the package ray, which is not installed", fix="pip install leco_plugin[ray]"
        ) from None
    return ray


def _connect(ray: Any, address: str) -> None:
    try:
        host, colon, port = address.rpartition("://")[2].rpartition(":")
        # Ray itself would wait for it for minutes
        if colon and port.isdecimal():
            socket.create_connection((host, int(port)), timeout=_REACHED_IN).close()
        ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    # whatever it raises, there is no cluster to train on
    except Exception as error:
        raise ConfigError(
            f"there is no Ray cluster at {address}: {reason(error)}",
            fix="name its address, or none for one here; one that asks for a token needs RAY_AUTH_MODE=token",
        ) from error


@dataclass
class _Crowd:
    """The jobs of one call, as far as they are."""

    ray: Any
    jobs: Mapping[Path, JobConfig]
    view: ManyView
    _streams: dict[Path, Any] = field(default_factory=dict)
    _lost: dict[Path, int] = field(default_factory=dict)
    _received: dict[Path, set[str]] = field(default_factory=dict)
    _folders: dict[Path, Folder] = field(default_factory=dict)

    def run(self) -> Iterator[tuple[Path, LecoError | None]]:
        for path, job in self.jobs.items():
            try:
                # as a run here would: nothing of another is replaced unasked
                self._folders[path] = Folder(job)
                self._folders[path].replaced(goes_on=job.resume == NEWEST)
                self._start(path, _packed(job) if job.resume == NEWEST else b"")
            except ConfigError as error:
                yield self._over(path, error)
        while self._streams:
            by_stream = {stream: path for path, stream in self._streams.items()}
            ready, _ = self.ray.wait(list(by_stream), num_returns=1, timeout=_SECONDS, fetch_local=False)
            for stream in ready:
                yield from self._advance(by_stream[stream], stream)

    def _start(self, path: Path, files: bytes) -> None:
        """Ask for a place for the job, with ``files`` in its folder."""
        job = self.jobs[path]
        gpus = self.ray.cluster_resources().get("GPU", 0)
        asks: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        # what is lost is begun again by us, who have its files
        task = self.ray.remote(_work).options(num_returns="streaming", max_retries=0, **asks)
        self._streams[path] = task.remote(job.model_dump(mode="json"), files, os.getcwd())

    def _advance(self, path: Path, stream: Any) -> Iterator[tuple[Path, LecoError | None]]:
        """Take in the next that a job says; gives it if it has ended."""
        errors = self.ray.exceptions
        try:
            said = self.ray.get(next(stream))
        except StopIteration:
            yield self._over(path, None)
        except errors.RayTaskError as error:
            cause = error.cause
            known = cause if isinstance(cause, LecoError) else TrainingError(f"{type(cause).__name__}: {reason(cause)}")
            yield self._over(path, known)
        # a machine, or the process on it, is gone
        except errors.RayError as error:
            self._lost[path] = self._lost.get(path, 0) + 1
            if self._lost[path] >= ATTEMPTS:
                yield self._over(path, TrainingError(f"{ATTEMPTS} machines were lost, the last by: {reason(error)}"))
            else:
                self.view.say(f"{path}: its machine is lost; it goes on with another")
                self.view.state(str(path), "waits")
                self._start(path, _packed(self.jobs[path]))
        else:
            try:
                self._take(path, said)
            except OSError as error:
                folder = self.jobs[path].output_folder
                yield self._over(path, TrainingError(f"cannot write to {folder}: {reason(error)}"))

    def _over(self, path: Path, error: LecoError | None) -> tuple[Path, LecoError | None]:
        stream, folder = self._streams.pop(path, None), self._folders.pop(path, None)
        if stream is not None and error:
            self.ray.cancel(stream)
        if folder is not None:
            folder.__exit__()
        self.view.state(str(path), "failed" if error else "done")
        return path, error

    def _take(self, path: Path, said: _Said) -> None:
        folder, received = self.jobs[path].output_folder, self._received.setdefault(path, set())
        if said.present:
            _unpack(said.files, folder)
            for name in received.difference(said.present):
                (folder / name).unlink(missing_ok=True)
                # a state that was cleared away is a folder less
                with suppress(OSError):
                    (folder / name).parent.rmdir()
            self._received[path] = set(said.present)
        if isinstance(said.event, RunStarted):
            self._folders[path].begin(said.event.run_id)
        if said.event:
            self.view.notify(str(path), said.event)


@dataclass(frozen=True)
class _Said:
    """What a job says: an event, and the files that are new."""

    event: Event | None
    files: bytes = b""
    present: tuple[str, ...] = ()
    """Every file that the run has, so that what it has cleared away goes here, too."""


def _work(values: dict[str, Any], files: bytes, home: str) -> Iterator[_Said]:
    """Run a job in a folder of its own with ``files`` in it; on a machine of the cluster."""
    from leco_plugin.plugins import plugin_manager, run_job

    with tempfile.TemporaryDirectory(prefix="leco-") as folder:
        _unpack(files, Path(folder))
        # a job's paths are as its caller sees them
        with suppress(OSError):
            os.chdir(home)
        job = JobConfig.model_validate(values, strict=False)
        begun = any(Path(folder).glob("*-state"))
        state = {"output_dir": Path(folder), "resume": NEWEST if begun else job.resume}
        sender, failed = _Sender(Path(folder)), []

        def run() -> None:
            try:
                run_job(job.model_copy(update=state), manager=plugin_manager([sender]))
            except BaseException as error:  # noqa: BLE001 - raised where Ray hears of it
                failed.append(error)
            sender.said.put(None)

        threading.Thread(target=run, daemon=True).start()
        while (said := sender.said.get()) is not None:
            yield said
        yield sender.files(None)
        if failed:
            raise failed[0]


class _Sender:
    """Observes a run, and puts into a queue what its caller shall know."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._sent, self._due = folder, _stamps(folder), False
        self.said: queue.Queue[_Said | None] = queue.Queue()

    @hookimpl
    def leco_observers(self, run: RunDescription) -> list[_Sender]:
        """This one, beside the run's own."""
        return [self]

    def notify(self, event: Event) -> None:
        """With the files that it is about."""
        # with the event after it: the history has it then, too
        self.said.put(self.files(event) if self._due else _Said(event))
        self._due = isinstance(event, Saved | PicturesDrawn)

    def files(self, event: Event | None) -> _Said:
        """``event`` with what is new in the folder."""
        stamps = _stamps(self._folder)
        new = [name for name, stamp in stamps.items() if self._sent.get(name) != stamp]
        self._sent = dict(stamps)
        return _Said(event, _archive(self._folder, new), tuple(stamps))


def _stamps(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Every whole file in ``folder``, and what changes when it does."""
    found: dict[str, tuple[int, int] | None] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # what begins with a dot is half-written, or this machine's own
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            with suppress(OSError):
                found[name.as_posix()] = (path.stat().st_mtime_ns, path.stat().st_ino)
    return found


def _packed(job: JobConfig) -> bytes:
    """The files of a job's run; its folder may have those of others, too."""
    folder, name = job.output_folder, job.name
    names = [one for one in _stamps(folder) if one.startswith((f"{name}.", f"{name}-"))] if folder.is_dir() else []
    return _archive(folder, names)


def _archive(folder: Path, names: list[str]) -> bytes:
    if not names:
        return b""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        # a state counts when its manifest is there, which so comes last
        for name in sorted(names, key=lambda one: one.endswith("/manifest.json")):
            with suppress(OSError):
                archive.add(folder / name, arcname=name, recursive=False)
    return data.getvalue()


def _unpack(data: bytes, folder: Path) -> None:
    """Write what came, each file as a whole."""
    if not data:
        return
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            outside = Path(member.name).is_absolute() or ".." in Path(member.name).parts
            if file and not outside:
                write_atomically(folder / member.name, file.read())
