"""Entry point of the scripts: a command line that cannot be composed is answered with what there is, no traceback."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from layerprobe import program
from layerprobe.compat.hydra import compose_once, config_dir
from layerprobe.config import BY_NAME
from layerprobe.formatting import first_line, nearest
from layerprobe.jobs.config_check import key_paths, same_name
from layerprobe.quoting import command, quoted
from layerprobe.results.config_migration import GONE, PACKAGES, former_override, with_what_moved

_FULL = "HYDRA_FULL_ERROR"
"""With it, Hydra hands an error over and does not print it."""

_EXTRAS = {"hydra/sweeper/optuna": "optuna", "hydra/launcher/submitit_slurm": "slurm"}
"""Choices that come with an optional dependency."""


_GONE = {"solver/sgd": GONE["layerprobe.probing.solvers.sgd.SGD"]}
"""Choices of before, with what to choose instead."""


def run_script(main: Callable[[], Any]) -> None:
    """Run a script whose `main` is Hydra's.

    An error while the configuration is composed ends with a message: what there is not, which names are near, and the
    next step. `HYDRA_FULL_ERROR=1` shows tracebacks as ever.

    Raises:
        SystemExit: With code 1 after such a message.
    """
    compose_once()
    called = program.name()
    if program.CALLED in os.environ and {"-sc", "--shell-completion", "--help", "-h"} & {*sys.argv}:
        sys.argv[0] = called.split()[0]  # what a shell is to complete
    if os.environ.get(_FULL) == "1":
        main()
        return
    flags = [word for word in sys.argv[1:] if word in ("-m", "--multirun")]
    sys.argv[1:] = flags + [word for word in sys.argv[1:] if word not in flags]  # argparse takes them first or last
    os.environ[_FULL] = "1"
    try:
        main()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if os.environ.get(_FULL) != "1":
            raise
        sys.stderr.write(f"{called}: {_explain(error, sys.argv[1:])}\n")
        raise SystemExit(1) from None
    except SystemExit as end:
        if isinstance(
            end.__context__, ConfigCompositionException | OverrideParseException
        ):  # of a later job of a sweep
            sys.stderr.write(f"{called}: {_explain(end.__context__, sys.argv[1:])}\n")
        raise
    finally:
        composed()


def composed() -> None:
    """Say that the configuration is composed: errors from here on, and of the jobs' processes, Hydra shows."""
    os.environ.pop(_FULL, None)


def _explain(error: Exception, words: list[str]) -> str:
    plain = str(error).strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_choice(str(error.missing_cfg_file), list(error.options or []))
    if isinstance(error, OverrideParseException):
        if "=" not in str(error.override):
            return f"{error.override!r} gives no value. Write {error.override}=VALUE; --help lists what can be chosen."
        return (
            f"{error.override!r} cannot be read: {plain.splitlines()[0]}. Close every bracket and quote; put a value "
            "with blanks, commas or = in quotes of its own, and the whole in those of the shell: 'KEY=\"VALUE\"'."
        )
    if "Config group override must be" in plain:
        chosen = [word for word in words if (program.CONF / word.partition("=")[0]).is_dir() and "=" in word]
        wrong = next((w for w in chosen if re.fullmatch(r"null|~|\d*|true|false", w.partition("=")[2])), "")
        group = wrong.partition("=")[0]
        if group:
            return f"{wrong}: {group} is a group, which takes a name; to leave it out: ~{group}. {_all(group, [])}"
        return f"{plain}. An override is KEY=VALUE or GROUP=NAME; --help lists the groups."
    if twice := re.match(r"Multiple values for ([\w/@.]+)\. To override a value use", plain):
        return (
            f"+{twice[1]}: the configuration chooses one already. To choose another, leave out the +: {twice[1]}=NAME"
        )
    match = re.match(r"Could not override '([^']+)'|Error merging override (\S+)", plain)
    if match is not None and match[1]:
        return _no_key(match[1], words)
    if moved := re.match(r"In '(.+)/([^/]+)': .*\s+Key '(\w+)' not in ", plain):
        return _no_key_of_file(moved[1], moved[2], moved[3], words)
    if below := re.match(r"In '(.+)': Could not override '([\w/]+)@.+\.\2'", plain):
        return (
            f"{below[1]}.yaml overrides {below[2]} within its own group: begin it, before any other comment, with the "
            "line `# @package _global_`."
        )
    cause = error.__cause__
    if match is not None and match[2] and cause is not None:
        return f"{match[2]}: {first_line(cause)}."
    more = str(cause).strip() if isinstance(cause, OmegaConfBaseException) and str(cause).strip() not in plain else ""
    lines = [line for line in f"{plain}\n{more}".splitlines() if not re.match(r"\s*(object|reference)_type=", line)]
    lines = list(map(with_what_moved, lines))
    return "\n".join(lines).strip() + "\n--help lists the groups, --cfg job every value."


def _no_choice(missing: str, options: list[str]) -> str:
    group, _, name = missing.removesuffix(".yaml").rpartition("/")
    if (extra := _EXTRAS.get(f"{group}/{name}")) is not None:
        return f"{group}={name} needs a package that is not installed: {program.to_install(extra)}"
    if f"{group}/{name}" in _GONE:
        return f"{group}={name} is gone: {_GONE[f'{group}/{name}']}"
    if not group:
        return f"There is no configuration {name!r}."
    if group == "experiment" and (others := sorted(program.CONF.glob(f"experiment/*/{name}.yaml"))):
        script = others[0].parent.name
        return (
            f"experiment={name} is one of {program.name(script)}, not of {program.name()}: "
            f"{command(script, f'experiment={name}')}"
        )
    return f"There is no {group} {name!r}. {_all(group, options, name)}"


def _all(group: str, options: list[str], name: str = "") -> str:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(program.CONF), version_base="1.3"):
        known = {*GlobalHydra.instance().config_loader().get_group_options(group), *options}
    return nearest(name, known) if name else f"Choose one of: {', '.join(sorted(known))}."


def _no_key(path: str, words: list[str]) -> str:
    """Say which key of which part is not there, and what is like it there or of the same name elsewhere."""
    found = _base([word for word in words if word.lstrip("+~").partition("=")[0] != path])
    node, steps = found, path.split(".")
    for i, step in enumerate(steps):
        if isinstance(node, dict) and step in node:
            node = node[step]
            continue
        known = list(map(str, node)) if isinstance(node, dict) else []
        part = ".".join(steps[:i])
        where = f"{part} has no {step!r}" if part else f"There is no {step!r}"
        elsewhere = (full for full in key_paths(found) if full != path)
        advice = same_name(steps[-1], elsewhere) or nearest(step, known)
        add = f"To add an argument that is not in the configuration: +{path}=…" if part else ""
        group = former_override(path).partition(".")[0]
        choices = [re.sub(r"\[[^]]*\]", "", word) for word in words if word.startswith(f"{group}=")]
        if any("," in choice for choice in choices):  # Hydra composes a sweep without it
            several = PACKAGES.get(group, "").removeprefix("probe.") in BY_NAME  # where ++ would add a part of a choice
            each = f"Write an experiment for each {group} of the sweep, with its values: -m experiment=NAME,NAME"
            advice, add = each if several else f"For each {group} of the sweep: ++{path}=…", ""
        return " ".join(filter(None, (f"{where}.", advice, add)))
    return f"{path!r} cannot be overridden. --cfg job shows every value."


def _no_key_of_file(group: str, name: str, key: str, words: list[str]) -> str:
    """Say where a file of a group is to put what it has under a key that is not there."""
    file = f"{group}/{name}.yaml"
    if key not in PACKAGES:
        return f"{file}: {_no_key(key, [word for word in words if word.partition('=')[0] != group])}"
    begin = f"begin it, before any other comment, with the line `# @package {PACKAGES[key]}`"
    where = begin if key == group else f"say {PACKAGES[key]} there"
    return f"{file} has values under {key!r}, which the configuration has under {PACKAGES[key]}: {where}."


def _base(words: list[str]) -> Any:
    """Compose the configuration, of plain values, with the rest of the command line or, if that fails, without it."""
    script, own = Path(sys.argv[0]).stem, config_dir(words)
    more = [] if own is None else [f"hydra.searchpath=[{quoted(os.path.abspath(own))}]"]
    given = [word for word in words if "=" in word and not word.startswith("-") and "hydra" not in word]
    for overrides in (more + given, more):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(program.CONF), version_base="1.3"):
                return OmegaConf.to_container(compose(script, overrides))
        except Exception:  # of any kind, of a configuration that is composed only to advise on the error at hand
            continue
    return {}
