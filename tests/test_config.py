"""Settings: which source wins, and what a wrong one is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.config import Limits, ServeSettings, SettingsError, parse_address
from service.sources import SETTINGS, load_settings


def test_nothing_given_is_the_defaults() -> None:
    assert load_settings({}, {}) == ServeSettings()


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "mixformer.toml"
    file.write_text("max_batch = 3\nslots = 5\nthreads = 7\n[limits]\nmax_sessions = 11\n")
    environment = {"MIXFORMER_MAX_BATCH": "4", "MIXFORMER_SLOTS": "6", "HOME": "/root"}
    settings = load_settings({"max_batch": "8", "slots": None}, environment, file)
    assert (settings.max_batch, settings.slots, settings.threads, settings.limits.max_sessions) == (8, 6, 7, 11)


def test_environment_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mixformer.toml"
    file.write_text('log_format = "json"\n')
    assert load_settings({}, {"MIXFORMER_CONFIG": str(file)}).log_format == "json"


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ({"max_batch": 0}, {}, ["max_batch=0", "flag --max-batch", ">= 1"]),
        ({}, {"MIXFORMER_MAX_BATCH": "many"}, ["max_batch='many'", "environment MIXFORMER_MAX_BATCH", "int"]),
        ({}, {"MIXFORMER_MAX_BATHC": "4"}, ["max_bathc='4'", "environment MIXFORMER_MAX_BATHC", "no such setting"]),
        ({"precision": "float8"}, {}, ["precision='float8'", "flag --precision"]),
        ({"listen": "localhost"}, {}, ["listen='localhost'", "HOST:PORT"]),
        ({"metrics": "0.0.0.0:70000"}, {}, ["metrics='0.0.0.0:70000'", "65535"]),
        ({"worker_socket": "/tmp/x"}, {}, ["worker_socket", "no such setting"]),
        ({"grace_seconds": "nan"}, {}, ["grace_seconds='nan'"]),
        ({"threads": "99999999"}, {}, ["threads='99999999'", "<= 1024"]),
        ({"slots": "100000000"}, {}, ["slots='100000000'", "<= 65536"]),
        ({"idle_timeout_seconds": "nan"}, {}, ["idle_timeout_seconds='nan'"]),
        ({"idle_timeout_seconds": "inf"}, {}, ["idle_timeout_seconds='inf'", "<= 31536000"]),
        ({"max_idle_timeout_seconds": "inf"}, {}, ["max_idle_timeout_seconds='inf'", "<= 31536000"]),
        ({"max_sessions": "5000000000"}, {}, ["max_sessions='5000000000'", "<= 1000000"]),
        ({"fronts": "65"}, {}, ["fronts='65'", "<= 64"]),
        ({"fronts": 3, "listen": "[::1]:65534"}, {}, ["fronts 3", "65536", "flag --fronts", "flag --listen"]),
        ({"workers": 2, "devices": "cuda:0,cuda:1"}, {}, ["workers 2", "devices 'cuda:0,cuda:1'", "flag --workers"]),
        ({"devices": "cuda:0,"}, {}, ["devices 'cuda:0,'", "empty name", "flag --devices"]),
        ({"number": 1}, {}, ["number", "no such setting"]),
        (
            {"decoded_bytes_budget": 99},
            {},
            ["decoded_bytes_budget 99 is below", "99532800 bytes", "flag --decoded-bytes-budget"],
        ),
        (
            {"idle_timeout_seconds": 9, "max_idle_timeout_seconds": 5},
            {},
            ["idle_timeout_seconds 9 is over max_idle_timeout_seconds 5", "flag --idle-timeout-seconds"],
        ),
    ],
)
def test_a_wrong_setting_is_named_with_value_and_source(
    flags: dict[str, object], environment: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags, environment)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bogus = 1\n", ["bogus=1", "no such setting"]),
        ("max_sessions = 1\n", ["max_sessions=1", "under [limits]"]),
        ("[limits]\nslots = 1\n", ["slots=1", "above [limits]"]),
        ("slots = \n", ["cannot be read"]),
        ("slots = 'x'\n", ["slots='x'"]),
        ("limits = 3\n", ["limits=3"]),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "mixformer.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings({}, {}, file)
    assert [word for word in [*words, str(file)] if word not in str(caught.value)] == []


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read"):
        load_settings({}, {}, tmp_path / "absent.toml")


def test_variables_that_kubernetes_adds_for_a_service_are_no_settings() -> None:
    links = {
        "MIXFORMER_SERVICE_HOST": "10.0.0.1",
        "MIXFORMER_SERVICE_PORT_GRPC": "50051",
        "MIXFORMER_PORT": "tcp://10.0.0.1:50051",
        "MIXFORMER_PORT_50051_TCP_ADDR": "10.0.0.1",
        "MIXFORMER_ROUTER_SERVICE_PORT": "1",
    }
    assert load_settings({}, links) == ServeSettings()


def test_settings_survive_the_way_to_a_child() -> None:
    settings = ServeSettings(listen="0.0.0.0:0", insecure=True, worker_socket="/run/w.sock", limits=Limits(max_sessions=3))
    assert b"\n" not in settings.to_json()
    assert ServeSettings.from_json(settings.to_json()) == settings


def test_a_child_without_settings_says_so() -> None:
    with pytest.raises(SettingsError, match="standard input"):
        ServeSettings.from_json(b"\n")


def test_every_number_has_an_upper_end() -> None:
    """A value without one would be found out only when something fails with it."""
    numbers = [
        name for name, setting in SETTINGS.items() if isinstance(setting.default, int | float) and setting.default is not False
    ]
    assert {"slots", "max_sessions", "idle_timeout_seconds"} < set(numbers)
    for name in numbers:
        with pytest.raises(SettingsError, match=f"{name}='1{'0' * 18}'"):
            load_settings({name: "1" + "0" * 18}, {})


def test_an_8k_frame_fits() -> None:
    assert Limits().max_frame_pixels >= 7680 * 4320


def test_every_setting_has_a_help_text() -> None:
    assert [name for name, setting in SETTINGS.items() if not setting.help] == []
    assert SETTINGS["precision"].choices == ("auto", "float32", "bfloat16", "float16", "int8")
    assert SETTINGS["listen"].choices == ()


@pytest.mark.parametrize(
    ("text", "host", "port"), [("127.0.0.1:1", "127.0.0.1", 1), ("[::1]:50051", "::1", 50051), ("::1:5", "::1", 5)]
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)


def test_every_worker_has_a_device_and_every_front_a_port() -> None:
    two = ServeSettings(devices="cuda:0, cuda:1", fronts=2, listen="[::1]:50051", worker_socket="/run/worker.sock")
    assert two.worker_devices == ("cuda:0", "cuda:1")
    assert ServeSettings(device="cpu", workers=3).worker_devices == ("cpu", "cpu", "cpu")
    assert [str(replace(two, number=number).front_address) for number in range(2)] == ["[::1]:50051", "[::1]:50052"]
    assert replace(two, listen="127.0.0.1:0", number=1).front_address.port == 0
    assert [two.socket_of(number) for number in range(2)] == ["/run/worker.sock", "/run/worker.sock.1"]


@pytest.mark.parametrize(
    ("flags", "lacking"),
    [
        ({}, ["TLS (tls_cert, tls_key)", "knowing them (token_file or tls_client_ca)"]),
        ({"token_file": "c"}, ["TLS (tls_cert, tls_key)"]),
        ({"tls_cert": "a", "tls_key": "b"}, ["knowing them (token_file or tls_client_ca)"]),
    ],
)
@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "tracker:1"])
def test_other_machines_are_let_in_only_by_tls_and_known_or_where_it_is_said(
    flags: dict[str, object], lacking: list[str], address: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"listen": address, **flags}, {})
    message = f"listen {address} lets other machines in without {' and '.join(lacking)}; insecure allows it"
    assert str(caught.value).startswith(message) and "flag --listen" in str(caught.value)
    assert load_settings({"listen": address, "insecure": True, **flags}, {}).lacks == tuple(lacking)


@pytest.mark.parametrize("known_by", [{"token_file": "c"}, {"tls_client_ca": "d"}])
def test_tls_and_tokens_or_client_certificates_open_the_port(known_by: dict[str, object]) -> None:
    settings = load_settings({"listen": "0.0.0.0:1", "tls_cert": "a", "tls_key": "b", **known_by}, {})
    assert settings.is_open and not settings.lacks
    by_environment = load_settings({"tls_cert": "a", "tls_key": "b"}, {"MIXFORMER_LISTEN": "[::]:1", "MIXFORMER_TOKENS": "t"})
    assert by_environment.tokens == "t"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "localhost:1"])
def test_this_machine_is_let_in_as_it_is(address: str) -> None:
    assert not load_settings({"listen": address}, {}).is_open


@pytest.mark.parametrize("flags", [{"tls_cert": "a"}, {"tls_key": "b"}, {"tls_client_ca": "c"}])
def test_files_of_tls_that_belong_together(flags: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="tls_cert and tls_key belong together, and tls_client_ca to both"):
        load_settings(flags, {})


def test_a_secret_is_not_shown_wherever_it_is_put(tmp_path: Path) -> None:
    file = tmp_path / "mixformer.toml"
    file.write_text('tokens = "cam hidden"\n')
    for flags, environment, path in (
        ({}, {"MIXFORMER_TOKENS": "cam hidden", "MIXFORMER_SLOTS": "x"}, None),
        ({}, {"MIXFORMER_TOKEN": "hidden"}, None),
        ({}, {"MIXFORMER_TOKNES_KEY": "hidden"}, None),
        ({}, {}, file),
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(flags, environment, path)
        assert "hidden" not in str(caught.value)
    assert "hidden" not in repr(ServeSettings(tokens="cam hidden"))
    assert load_settings({}, {"MIXFORMER_CLIENT_TOKEN": "hidden"}) == ServeSettings()
