import pytest

from layerprobe.results.wandb_mode import default_mode


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home and working directory, and nothing about wandb in the environment."""
    for name in ("MODE", "API_KEY", "IDENTITY_TOKEN_FILE", "BASE_URL", "CONFIG_DIR", "DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def settings(folder, text):
    folder.mkdir(parents=True)
    (folder / "settings").write_text(text)


def test_offline_without_a_key(home):
    assert default_mode() == "offline"


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_online_with_a_key_in_the_environment(home, monkeypatch, name):
    monkeypatch.setenv(name, "x")
    assert default_mode() == "online"


@pytest.mark.parametrize(("given", "mode"), [("disabled", "disabled"), ("offline", "offline"), ("dryrun", "offline")])
def test_the_environment_decides_first(home, monkeypatch, given, mode):
    monkeypatch.setenv("WANDB_API_KEY", "x")
    monkeypatch.setenv("WANDB_MODE", given)
    assert default_mode() == mode


@pytest.mark.parametrize("name", [".netrc", "_netrc"])
def test_netrc_counts_for_its_own_host_only(home, monkeypatch, name):
    (home / name).write_text("machine api.wandb.ai login user password x\n")
    (home / name).chmod(0o600)
    assert default_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert default_mode() == "offline"


def test_netrc_elsewhere_and_a_broken_one(home, monkeypatch, tmp_path):
    (tmp_path / "keys").write_text("machine api.wandb.ai login user password x\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "keys"))
    assert default_mode() == "online"
    (tmp_path / "keys").write_text("machine machine what\n")
    assert default_mode() == "offline"


def test_settings_files(home, monkeypatch):
    settings(home / ".config" / "wandb", "[default]\napi_key = x\n")
    assert default_mode() == "online"
    settings(home.parent / "work" / "wandb", "[default]\nmode = offline\n")
    assert default_mode() == "offline"
    (home.parent / "work" / "wandb" / "settings").write_text("no section\n")
    assert default_mode() == "online"


def test_neither_a_home_nor_a_known_user(home, monkeypatch):
    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert default_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert default_mode() == "online"
