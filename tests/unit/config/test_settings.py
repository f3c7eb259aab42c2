"""Where settings come from, in which order, and how wrong ones are explained."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from stoker.config import GROUPS, Settings, is_loopback, load_settings
from stoker.core.errors import SettingsError


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(
    config_file: Path, *, flags: dict[str, str] | None = None, environ: dict[str, str] | None = None
) -> Settings:
    return load_settings(flags=flags or {}, environ={**(environ or {}), "STOKER_CONFIG": str(config_file)})


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(config_file: Path) -> None:
    config_file.write_text("port = 1\nmax_waiting = 2\nmax_running = 3\n")
    settings = load(
        config_file, flags={"port": "11"}, environ={"STOKER_PORT": "12", "STOKER_MAX_WAITING": "13"}
    )
    assert (settings.port, settings.max_waiting, settings.max_running) == (11, 13, 3)
    assert settings.host == "127.0.0.1"


def test_the_config_flag_beats_the_variable(config_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("port = 2")
    config_file.write_text("port = 1")
    environ = {"STOKER_CONFIG": str(config_file)}
    assert load_settings(flags={}, environ=environ, config_file=str(other)).port == 2
    assert load_settings(flags={}, environ=environ).port == 1


def test_home_holds_the_settings_file_and_every_folder(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("port = 7")
    settings = load_settings(flags={}, environ={"STOKER_HOME": str(tmp_path)})
    assert settings.port == 7
    assert settings.models_dir == tmp_path / "models"
    assert settings.catalogue_file == tmp_path / "catalogue.toml"


def test_without_home_folders_follow_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".config" / "stoker"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("port = 8")
    settings = load_settings(flags={}, environ={})
    assert settings.port == 8
    assert settings.models_dir == tmp_path / ".cache" / "stoker" / "models"


def test_a_missing_file_is_an_error_only_when_it_was_named(tmp_path: Path) -> None:
    assert load_settings(flags={"home": str(tmp_path)}, environ={}).port == 8000
    with pytest.raises(SettingsError, match=r"nowhere\.toml does not exist"):
        load_settings(flags={}, environ={}, config_file=str(tmp_path / "nowhere.toml"))


@pytest.mark.parametrize("content", [b"port = ", b"port = '\xff'", b"port = 1\nport = 2"])
def test_a_file_that_is_not_toml_is_one_line(config_file: Path, content: bytes) -> None:
    config_file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"config\.toml cannot be read"):
        load(config_file)


def test_an_unknown_key_in_the_file_names_close_matches(config_file: Path) -> None:
    config_file.write_text("max_runing = 3")
    with pytest.raises(SettingsError, match=r"max_runing in .*config\.toml is not a setting; .*max_running"):
        load(config_file)


def test_an_unknown_variable_names_close_matches(config_file: Path) -> None:
    config_file.touch()
    with pytest.raises(SettingsError, match="STOKER_PROT is not a setting; did you mean STOKER_PORT"):
        load(config_file, environ={"STOKER_PROT": "1"})


@pytest.mark.parametrize("variable", ["STOKER_port", "STOKER_", "STOKER_XYZZYPLUGH"])
def test_every_variable_with_the_prefix_must_be_a_setting(config_file: Path, variable: str) -> None:
    config_file.touch()
    with pytest.raises(SettingsError, match=f"{variable} is not a setting"):
        load(config_file, environ={variable: "1"})


def test_what_kubernetes_says_of_a_service_named_stoker_is_no_setting(config_file: Path) -> None:
    config_file.write_text("port = 7")
    environ = {
        "STOKER_SERVICE_HOST": "10.0.0.1",
        "STOKER_SERVICE_PORT": "8000",
        "STOKER_SERVICE_PORT_HTTP": "8000",
        "STOKER_PORT": "tcp://10.0.0.1:8000",
        "STOKER_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "STOKER_PORT_8000_TCP_PROTO": "tcp",
        "STOKER_PORT_8000_TCP_PORT": "8000",
        "STOKER_PORT_8000_TCP_ADDR": "10.0.0.1",
        "STOKER_METRICS_SERVICE_HOST": "10.0.0.2",
        "STOKER_METRICS_PORT": "udp://10.0.0.2:9090",
        "STOKER_METRICS_PORT_9090_UDP_ADDR": "10.0.0.2",
    }
    assert load(config_file, environ=environ).port == 7


def test_a_port_that_is_merely_wrong_is_still_an_error(config_file: Path) -> None:
    config_file.touch()
    with pytest.raises(SettingsError, match="STOKER_PORT: "):
        load(config_file, environ={"STOKER_PORT": "tcp:8000"})
    with pytest.raises(SettingsError, match="STOKER_MAX_PORT is not a setting"):
        load(config_file, environ={"STOKER_MAX_PORT": "8000"})


def test_other_variables_are_not_looked_at(config_file: Path) -> None:
    config_file.touch()
    assert load(config_file, environ={"PORT": "1", "XSTOKER_PORT": "2"}).port == 8000


def test_a_wrong_value_is_blamed_on_where_it_came_from(config_file: Path) -> None:
    config_file.write_text("isa = 'avx9000'\n")
    with pytest.raises(SettingsError) as error:
        load(config_file, flags={"max_running": "none"}, environ={"STOKER_PORT": "-1"})
    message = str(error.value)
    assert "--max-running: input should be a valid integer" in message
    assert "STOKER_PORT: input should be greater than or equal to 0" in message
    choices = "'auto', 'amx', 'avx512bf16', 'avx512vnni', 'avx2vnni', 'avx2', 'neon' or 'portable'"
    assert f"isa in {config_file}: input should be {choices}" in message


@pytest.mark.parametrize(
    ("text", "expected"), [("2GiB", 2 * 2**30), ("10MB", 10_000_000), ("12345", 12345), ("0.5 KiB", 512)]
)
def test_sizes_have_units(config_file: Path, text: str, expected: int) -> None:
    config_file.write_text(f"kv_memory = '{text}'")
    assert load(config_file).kv_memory == expected


@pytest.mark.parametrize("text", ["", "2XB", "-1", "lots"])
def test_a_wrong_size_is_refused(config_file: Path, text: str) -> None:
    config_file.touch()
    with pytest.raises(SettingsError, match="STOKER_KV_MEMORY: "):
        load(config_file, environ={"STOKER_KV_MEMORY": text})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])  # noqa: S104 - the subject
def test_an_address_that_others_can_reach_needs_a_key(host: str) -> None:
    with pytest.raises(SettingsError, match="STOKER_API_KEY"):
        load_settings(flags={"host": host}, environ={"STOKER_HOME": "/nonexistent"})
    environ = {"STOKER_HOME": "/nonexistent", "STOKER_API_KEY": "k"}
    assert load_settings(flags={"host": host}, environ=environ).host == host


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False)],
)
def test_loopback_addresses(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("key", ["", "two words", "schlüssel", "new\nline"])
def test_a_key_that_no_client_can_send_is_refused(config_file: Path, key: str) -> None:
    config_file.touch()
    with pytest.raises(SettingsError, match="STOKER_API_KEY: must be printable ASCII"):
        load(config_file, environ={"STOKER_API_KEY": key})


def test_a_wrong_key_is_not_repeated_in_the_message(config_file: Path) -> None:
    config_file.touch()
    with pytest.raises(SettingsError) as error:
        load(config_file, environ={"STOKER_API_KEY": "hush hush"})
    assert "hush" not in str(error.value)


def test_a_key_is_not_shown_when_settings_are_printed() -> None:
    settings = Settings.model_validate({"api_key": "hush"})
    assert "hush" not in repr(settings)


def test_a_step_holds_every_running_sequence() -> None:
    with pytest.raises(SettingsError, match=r"step_tokens \(64\) must be at least max_running \(65\)"):
        load_settings(
            flags={"max_running": "65", "step_tokens": "64"}, environ={"STOKER_HOME": "/nonexistent"}
        )


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_every_setting_has_a_default_a_description_and_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        assert not field.is_required(), name
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_hubs_own_variables_count_below_stokers_and_above_the_file(config_file: Path) -> None:
    config_file.write_text('hf_endpoint = "https://file"\noffline = false\n')
    environ = {"HF_TOKEN": "hf_a", "HF_ENDPOINT": "https://mirror/", "HF_HUB_OFFLINE": "1"}
    settings = load(config_file, environ=environ)
    assert settings.hf_token is not None
    assert settings.hf_token.get_secret_value() == "hf_a"
    assert "hf_a" not in repr(settings)
    assert (settings.hf_endpoint, settings.offline) == ("https://mirror", True)
    own = {"STOKER_HF_ENDPOINT": "https://own", "STOKER_OFFLINE": "false"}
    settings = load(config_file, environ={**environ, **own})
    assert (settings.hf_endpoint, settings.offline) == ("https://own", False)
    settings = load(config_file, environ={"HF_TOKEN": "", "HF_ENDPOINT": "", "HF_HUB_OFFLINE": ""})
    assert (settings.hf_token, settings.hf_endpoint, settings.offline) == (None, "https://file", False)


@pytest.mark.parametrize("value", ["mirror", "ftp://mirror", "https://", "https://mirror?x=1"])
def test_a_wrong_endpoint_is_told_by_the_variable_it_came_from(config_file: Path, value: str) -> None:
    config_file.touch()
    with pytest.raises(SettingsError, match="HF_ENDPOINT: must be an address"):
        load(config_file, environ={"HF_ENDPOINT": value})
    with pytest.raises(SettingsError, match="HF_HUB_OFFLINE"):
        load(config_file, environ={"HF_HUB_OFFLINE": "perhaps"})


def test_tables_of_single_models(config_file: Path) -> None:
    config_file.write_text('[models."./a.gguf"]\nalias = "a"\nkv_memory = "1GiB"\n[models.b]\nthreads = 2\n')
    models = load(config_file).models
    assert models["./a.gguf"].given() == {"alias": "a", "kv_memory": 2**30}
    assert models["b"].given() == {"threads": 2}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[models.a]\nalias = 'two words'", r"models\.a\.alias in .*config\.toml"),
        ("[models.a]\nengine = 'vllm'", r"models\.a\.engine in .*'llamacpp'"),
        ("[models.a]\nport = 1", r"models\.a\.port in .*: extra inputs"),
        ("[models.a]\nmax_running = 600", r"models\.a\.max_running \(600\) must be at most step_tokens"),
        ('draft_model = "b"', "draft_model is set, but speculation is prompt-lookup: set it to draft-model"),
        ('skip_layers = "2"', "skip_layers is set, but speculation is prompt-lookup: set it to skip-layers"),
        (
            'speculation = "draft-model"\ndraft_model = "b"\n[models.a]\nskip_layers = "2"',
            r"models\.a\.skip_layers is set, but its speculation is draft-model",
        ),
        ('[models.a]\nspeculation = "guess"', r"models\.a\.speculation"),
        ("models = 3", r"models in .*config\.toml"),
    ],
)
def test_a_wrong_table_of_a_model(config_file: Path, content: str, words: str) -> None:
    config_file.write_text(content)
    with pytest.raises(SettingsError, match=words):
        load(config_file)


def test_tables_are_for_the_file_alone(config_file: Path) -> None:
    config_file.touch()
    with pytest.raises(SettingsError, match="STOKER_MODELS: models can only be set in the settings file"):
        load(config_file, environ={"STOKER_MODELS": "{}"})


def test_host_names_are_separated_by_commas(config_file: Path) -> None:
    config_file.write_text("allowed_hosts = ['A.example']")
    assert load(config_file).allowed_hosts == ("a.example",)
    environ = {"STOKER_ALLOWED_HOSTS": "a.example, b.example"}
    assert load(config_file, environ=environ).allowed_hosts == ("a.example", "b.example")
    with pytest.raises(SettingsError, match="STOKER_ALLOWED_HOSTS: "):
        load(config_file, environ={"STOKER_ALLOWED_HOSTS": "http://a.example"})
