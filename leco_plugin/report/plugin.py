"""The report while a run goes on, as a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leco_plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from leco_plugin.config.run import RunDescription
    from leco_plugin.report.live import LivePage


@hookimpl
def leco_observers(run: RunDescription) -> list[LivePage]:
    """What writes the page that the host shows; most hosts show none."""
    if run.page is None:
        return []
    from leco_plugin.report.live import LivePage

    return [LivePage(run.folder, run.name, run.page)]
