"""LECO inside ai-toolkit: what its `extensions` folder imports. Light, since every job of the host imports it."""

from __future__ import annotations

from typing import Any


class LecoExtension:
    """The process `type: leco`, as the host looks for it: by ``uid``, in a list called ``AI_TOOLKIT_EXTENSIONS``."""

    uid = "leco"
    name = "LECO"

    @classmethod
    def get_process(cls) -> type[Any]:
        """The class of the process.

        Asked of every extension at every job of the host, and so it never raises: where the process cannot be
        imported, only a job of this type fails, with the reason.
        """
        try:
            from leco_plugin.hosts.ai_toolkit.process import LecoProcess
        # another version of the host can fail in any way, and other jobs must go on
        except Exception as error:  # noqa: BLE001
            return _unusable(error)
        return LecoProcess


def _unusable(reason: Exception) -> type[Any]:
    class Unusable:
        def __init__(self, *arguments: object, **options: object) -> None:
            from leco_plugin.errors import PluginError

            message = f"LECO does not work with this ai-toolkit: {type(reason).__name__}: {reason}"
            raise PluginError(message, fix="leco host check ai-toolkit PATH") from reason

    return Unusable


AI_TOOLKIT_EXTENSIONS = [LecoExtension]
