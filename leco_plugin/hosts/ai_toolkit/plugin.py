"""ai-toolkit as a host: what `leco host` can do with it."""

from __future__ import annotations

from leco_plugin.hookspecs import hookimpl
from leco_plugin.hosts.lazy import LazyHost

_FOLDER, _WINDOW = "leco_plugin.hosts.ai_toolkit.checkout", "leco_plugin.hosts.ai_toolkit.window"


@hookimpl
def leco_host() -> LazyHost:
    """The host `ai-toolkit`, which loads LECO as an extension."""
    return LazyHost(
        "ai-toolkit",
        "jobs of `type: leco`, on the command line and in its web UI; docs/ai-toolkit.md",
        install=f"{_FOLDER}:install",
        check=f"{_FOLDER}:check",
        remove=f"{_FOLDER}:remove",
        read="leco_plugin.hosts.ai_toolkit.job:read",
        start=f"{_WINDOW}:run",
        ui=f"{_WINDOW}:ui",
        submit=f"{_WINDOW}:submit",
    )
