"""OneTrainer as a host: what `leco host` can do with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from leco_plugin.hookspecs import hookimpl


class OneTrainer:
    """A checkout of OneTrainer, which a launcher starts; nothing is put into its folder."""

    name = "onetrainer"
    about = "configs that its UI exports, with a prompt file; docs/onetrainer.md"

    def check(self, path: Path) -> Iterable[str]:
        """Import it as a run does."""
        from leco_plugin.hosts.onetrainer import checkout

        return checkout.check(path)

    def start(self, arguments: Sequence[str]) -> int:
        """Train."""
        from leco_plugin.hosts.onetrainer import launcher

        return launcher.run(arguments)

    def ui(self, arguments: Sequence[str]) -> int:
        """Open its window with LECO in it."""
        from leco_plugin.hosts.onetrainer import launcher

        return launcher.ui(arguments)


@hookimpl
def leco_host() -> OneTrainer:
    """The host `onetrainer`."""
    return OneTrainer()
