"""The mode of Weights & Biases, online or offline: chosen without asking, and offline where the server takes no run."""

from __future__ import annotations

import configparser
import logging
import netrc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger("layerprobe")

_CLOUD = "https://api.wandb.ai"


def default_mode() -> str:
    """Choose the mode for a new run.

    Returns:
        What WANDB_MODE or wandb's settings files say; else "online" where credentials are configured (WANDB_API_KEY,
        WANDB_IDENTITY_TOKEN_FILE, netrc, settings files) and "offline" where not.
    """
    settings = _settings()
    mode = os.environ.get("WANDB_MODE") or settings.get("mode")
    if mode:
        return {"dryrun": "offline", "run": "online"}.get(mode, mode)
    host = os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or _CLOUD
    environment = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
    return "online" if environment or settings.get("api_key") or _in_netrc(host) else "offline"


def _settings() -> dict[str, str]:
    """Read the settings of `wandb login` and `wandb offline`: the user's, then the working directory's on top."""
    config = Path(os.environ.get("WANDB_CONFIG_DIR") or _home() / ".config" / "wandb")
    work = Path(os.environ.get("WANDB_DIR") or ".")
    found: dict[str, str] = {}
    for file in (config / "settings", work / "wandb" / "settings", work / ".wandb" / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(file)
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue
        if parser.has_section("default"):
            found |= dict(parser.items("default"))
    return found


def _home() -> Path:
    """Return the user's folder; `~` where neither HOME nor the user is known, as in some containers."""
    return Path(os.path.expanduser("~"))


def _in_netrc(host: str) -> bool:
    named = os.environ.get("NETRC")
    files = [Path(os.path.expanduser(named))] if named else [_home() / ".netrc", _home() / "_netrc"]
    for file in files:
        try:
            if netrc.netrc(file).authenticators(urlsplit(host).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def start_or_go_offline(start: Callable[[], Run], options: dict[str, Any]) -> Run:
    """Start a run; where that fails, start it offline, say so, and let the training go on.

    Args:
        start: Starts the run from the options.
        options: Those of `wandb.init`; `mode` becomes "offline" where the server cannot be used.
    """
    import wandb

    try:
        return start()
    except (wandb.errors.Error, OSError, TimeoutError) as error:
        if options.get("mode") == "offline":
            raise
        reason = str(error).strip().splitlines()
        log.warning(
            "Weights & Biases cannot be reached or does not take this run (%s); it is logged offline instead. "
            "Later: wandb sync %s",
            reason[0] if reason else type(error).__name__,
            f"{options.get('dir') or '.'}/wandb/offline-run-*",
        )
        wandb.teardown()
        options["mode"] = "offline"
        return start()
