"""ai-toolkit as a host: what `leco host` can do with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from leco_plugin.hookspecs import hookimpl


class AiToolkit:
    """A checkout of ai-toolkit, which loads LECO as an extension."""

    name = "ai-toolkit"
    about = "jobs of `type: leco`, on the command line and in its web UI; docs/ai-toolkit.md"

    def install(self, path: Path) -> Iterable[str]:
        """Put the extension into its folder."""
        from leco_plugin.hosts.ai_toolkit import checkout

        return checkout.install(path)

    def check(self, path: Path) -> Iterable[str]:
        """Import it as its jobs do."""
        from leco_plugin.hosts.ai_toolkit import checkout

        return checkout.check(path)

    def remove(self, path: Path) -> Iterable[str]:
        """Take the extension out again."""
        from leco_plugin.hosts.ai_toolkit import checkout

        return checkout.remove(path)

    def start(self, arguments: Sequence[str]) -> int:
        """Run jobs, as its own run.py does."""
        from leco_plugin.hosts.ai_toolkit import window

        return window.run(arguments)

    def ui(self, arguments: Sequence[str]) -> int:
        """Start its web UI."""
        from leco_plugin.hosts.ai_toolkit import window

        return window.ui(arguments)

    def submit(self, arguments: Sequence[str]) -> int:
        """Put a job into the queue of its web UI."""
        from leco_plugin.hosts.ai_toolkit import window

        return window.submit(arguments)


@hookimpl
def leco_host() -> AiToolkit:
    """The host `ai-toolkit`."""
    return AiToolkit()
