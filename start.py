"""From a bare Python to a running leco: `python start.py demo`, or `python start.py test`.

Needs Python 3.10 or newer and nothing else. Makes an environment of its own in .venv, so that nothing of the system
is touched, and installs the tested versions of constraints.txt into it.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# two processes of one thread and 2 GB each: what nearly every machine has
PARALLEL = ["-n", "2", "--dist", "worksteal"]


def main() -> int:
    """Install, then run; the exit code is that of what was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["demo", "test", "install"])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment")
    options, rest = parser.parse_known_args()
    if sys.version_info < (3, 10):
        sys.exit(f"leco needs Python 3.10 or newer; this is {sys.version.split()[0]}")
    python = environment(options.venv)
    install(python, "[dev]" if options.what == "test" else "")
    if options.what == "install":
        print(f"installed; run {python.parent / 'leco'} --help")
        return 0
    module = ["leco_plugin", "demo"] if options.what == "demo" else ["pytest", *PARALLEL]
    folder = ROOT if options.what == "test" else Path.cwd()
    return subprocess.run([python, "-m", *module, *rest], cwd=folder).returncode


def environment(folder: Path) -> Path:
    """The Python of the environment in ``folder``, made if need be."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        print(f"making an environment in {folder}", flush=True)
        venv.create(folder, with_pip=True)
    return python


def install(python: Path, extra: str) -> None:
    """Install this folder with the tested versions."""
    print("installing; torch is large, the first time takes minutes", flush=True)
    command = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", "-e", f"{ROOT}{extra}"]
    if subprocess.run(command).returncode:
        sys.exit("the installation failed; pip says why above")


if __name__ == "__main__":
    sys.exit(main())
