"""Converts ai-toolkit and LECO YAML to prompt TOML and back; what does not carry over is reported.

Never imports torch. `convert` does it from Python, ``python -m leco_converters`` or ``leco convert`` from a console.
"""

from leco_converters.convert import Conversion, Request, convert
from leco_converters.report import Note, Report

__all__ = ["Conversion", "Note", "Report", "Request", "convert"]
