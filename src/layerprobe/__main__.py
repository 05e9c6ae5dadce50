"""The console command: `layerprobe train …` runs `scripts/train.py …`, and the other scripts likewise."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from typing import NoReturn

from layerprobe import __version__
from layerprobe.formatting import nearest
from layerprobe.program import CALLED, SCRIPTS, console_command

COMMANDS = {
    "train": "train a network, freeze checkpoints, and probe every layer of each",
    "probe": "probe every layer of frozen networks: checkpoints of anyone, or a network as it is built",
    "report": "compare runs: one page, its views as pictures, the joined results, and a summary",
    "sweep": "look at a sweep, or go on with it",
    "features": "list the features that probes have kept, and remove some",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main() -> None:
    """Run the script that the first word names, with the other words, as if it had been started by its path."""
    if sys.argv[1:2] in (["-sc"], ["--shell-completion"]):
        _complete()
        return
    parser = _Parser(
        "layerprobe",
        usage="layerprobe COMMAND [WORD ...]",
        description="How linearly separable is what each layer of a neural network computes?",
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:10}{what}" for name, what in COMMANDS.items()),
                "\n`layerprobe COMMAND --help` says what a command takes."
                '\nTab completion in bash: eval "$(layerprobe -sc install=bash)"; also zsh, fish.',
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"layerprobe {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    if given.command not in COMMANDS:
        parser.error(f"There is no command {given.command!r}. {nearest(given.command, COMMANDS)}")
    _run(given.command, given.words)


def _run(command: str, words: list[str]) -> None:
    os.environ[CALLED] = console_command()
    script = str(SCRIPTS / f"{command}.py")
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def _complete() -> None:
    """Answer a shell: the commands, and behind one what Hydra knows of its configuration."""
    command, typed = "train", os.environ.get("COMP_LINE", "")
    if sys.argv[2:] and sys.argv[2].startswith("query="):
        first, _, rest = typed.partition(" ")
        command, behind, rest = rest.lstrip().partition(" ")
        if not behind:
            print(*COMMANDS)
            return
        if command not in ("train", "probe"):  # the others compose no configuration
            return
        os.environ["COMP_LINE"] = f"{first} {rest}"
    _run(command, sys.argv[1:])


if __name__ == "__main__":
    main()
