"""The mode of Weights & Biases, online or offline, chosen without asking and without importing wandb."""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

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
    """Settings of `wandb login` and `wandb offline`: the user's, then the working directory's on top."""
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
    """The user's folder; `~` as it stands where neither HOME nor the user is known, as in some containers."""
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
