"""OneTrainer as a host: what `leco host` can do with it."""

from __future__ import annotations

from leco_plugin.hookspecs import hookimpl
from leco_plugin.hosts.lazy import LazyHost


@hookimpl
def leco_host() -> LazyHost:
    """The host `onetrainer`, which a launcher starts; nothing is put into its folder."""
    return LazyHost(
        "onetrainer",
        "configs of its UI, or its UI itself, with a prompt file; docs/onetrainer.md",
        check="leco_plugin.hosts.onetrainer.checkout:check",
        read="leco_plugin.hosts.onetrainer.section:read",
        start="leco_plugin.hosts.onetrainer.launcher:run",
        ui="leco_plugin.hosts.onetrainer.launcher:ui",
    )
