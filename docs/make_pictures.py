"""Makes the pictures of a terminal that the pages show, and the strip of a LoRA that does nothing.

Usage, in the root of the project, with tmux on the path: ``python docs/make_pictures.py [NAME ...]``; without a name,
all of them. Each command really runs on a terminal, and what stands there is drawn. A few minutes on a CPU.
``leco demo`` makes the other strips.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).resolve().parent
WIDTH, HEIGHT, PATIENCE = 100, 60, 900
# pages load nothing from elsewhere
SVG = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
WORDS = '--target "a shape" --positive "a big shape" --negative "a small shape" --model builtin:tiny'
HAIR = {
    "slider/erase": "slider",
    "Which model": "sdxl",
    "there is no model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "act on": "a woman",
    "at +1": "a woman, very long hair",
    "at -1": "a woman, very short hair",
    "Memory": "12",
    "Which trainer": "builtin",
}
"""Answers, by what is in the questions."""


class Terminal:
    """A real terminal in ``folder``, in which `leco` is the project that this file is part of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        start = folder / "start"
        start.write_text(f"PS1='$ '\nleco() {{ '{sys.executable}' -m leco_plugin \"$@\"; }}\n", "utf-8")
        paths = (str(DOCS.parent), str(DOCS.parent / "converters"), os.environ.get("PYTHONPATH", ""))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "COLORTERM": ""}
        size = ("-x", str(WIDTH), "-y", str(HEIGHT))
        shell = f"bash --noprofile --rcfile {start} -i"
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "-c", str(folder), shell, env=environment)
        self.wait(lambda screen: screen.strip() == "$")
        start.unlink()

    def _tmux(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        command = ["tmux", "-S", str(self.folder / ".socket"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout  # noqa: S603

    def close(self) -> None:
        """End it and what runs in it."""
        self._tmux("kill-server")

    def type(self, line: str) -> None:
        """Type a line, and press Enter."""
        self._tmux("send-keys", "-l", line)
        self._tmux("send-keys", "Enter")

    def wait(self, seen: Callable[[str], object]) -> None:
        """Until ``seen`` is true of what stands there."""
        end = time.monotonic() + PATIENCE
        while not seen(screen := self._tmux("capture-pane", "-p").rstrip()):
            if time.monotonic() > end:
                raise SystemExit(f"this stands on the terminal, and nothing more comes:\n{screen}")
            time.sleep(0.1)

    def run(self, line: str) -> None:
        """Type a command, and wait for its end."""
        self.type(line)
        self.wait(lambda screen: screen.endswith("\n$"))

    def draw(self, name: str, title: str) -> None:
        """Make a picture of what stands there."""
        lines = self._tmux("capture-pane", "-p", "-e").rstrip().split("\n")
        console = Console(record=True, width=WIDTH, file=io.StringIO(), legacy_windows=False)
        console.print(Text.from_ansi("\n".join(lines[:-1] if lines[-1].strip() == "$" else lines)))
        svg = console.export_svg(title=title, code_format=SVG, unique_id=name)
        (DOCS / f"{name}.svg").write_text(svg, "utf-8")


def screen_new(terminal: Terminal) -> None:
    """`leco new`, with a wrong answer."""
    terminal.type("leco new --name hair")
    for question, answer in HAIR.items():
        terminal.wait(lambda screen, question=question: question in screen and screen.endswith(":"))
        terminal.type(answer)
    terminal.wait(lambda screen: screen.endswith("\n$"))
    terminal.draw("screen_new", "leco new")


def screen_check(terminal: Terminal) -> None:
    """`leco check` of a slider on the built-in model, whose files are here, so that memory and time are told."""
    terminal.run(f"leco new --name size {WORDS} --memory 0 --host builtin")
    terminal.type("clear")
    terminal.wait(lambda screen: screen == "$")
    terminal.run("leco check output/size/size.yaml")
    terminal.draw("screen_check", "leco check")


def screen_train(terminal: Terminal) -> None:
    """A training on the built-in model, under way."""
    terminal.type(f"leco train {WORDS} --name size")
    terminal.wait(lambda screen: re.search(r" [4-9]\d/200", screen))
    terminal.draw("screen_train", "leco train")


def nothing(terminal: Terminal) -> None:
    """The strip of a slider that has hardly learnt."""
    terminal.run(f"leco train {WORDS} --name nothing --set train.lr=1e-5 --set train.steps=20")
    terminal.run("leco preview output/nothing/nothing.safetensors --prompt 'a shape' --seeds 0,1,2 --output drawn")
    (drawn,) = (terminal.folder / "drawn").glob("*.png")
    shutil.copyfile(drawn, DOCS / "nothing.png")


PICTURES = {picture.__name__: picture for picture in (screen_new, screen_check, screen_train, nothing)}


def main(names: list[str]) -> None:
    """Make these pictures, or all."""
    for name in names or PICTURES:
        with tempfile.TemporaryDirectory() as made:
            terminal = Terminal(Path(made))
            try:
                PICTURES[name](terminal)
            finally:
                terminal.close()
        sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
