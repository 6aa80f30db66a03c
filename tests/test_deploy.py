"""The files that run the service, held against the service: settings, ports, pins."""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from deploy_files import DEPLOY, KUBERNETES, ROOT, manifests, parsed

from service.commands.arguments import parse
from service.front.calls.metadata import SESSION_METADATA
from service.front.frontend import LIVE
from service.sources import load_settings

COMPOSE = [ROOT / "docker-compose.yml", DEPLOY / "compose.cpu.yml"]
SECURE = DEPLOY / "compose.secure.yml"
MUTUAL = DEPLOY / "compose.mutual.yml"
ONE_HOST = DEPLOY / "envoy" / "one-host.yaml"
GHZ_PLANS = [DEPLOY / "ghz" / name for name in ("track.json", "track_stream.json")]
IMAGE_LOCKS = sorted((DEPLOY / "image").glob("*.lock"))


def plain_values(given: dict[Any, Any]) -> dict[Any, str]:
    """Compose's values with nothing set outside: `${NAME:-default}` is its default."""
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for name, value in given.items()}


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_sets_only_settings_that_the_service_has(path: Path) -> None:
    environment = parsed(path)["services"]["tracker"]["environment"]
    given = plain_values(environment)
    assert load_settings({}, given) != load_settings({}, {})


def test_compose_listens_inside_and_publishes_on_loopback() -> None:
    services = parsed(ROOT / "docker-compose.yml")["services"]
    environment = services["tracker"]["environment"]
    settings = load_settings(
        {}, {name: environment[name] for name in ("MIXFORMER_LISTEN", "MIXFORMER_METRICS", "MIXFORMER_INSECURE")}
    )
    assert (settings.listen, settings.metrics) == ("0.0.0.0:50051", "0.0.0.0:9090")
    published = [port for each in services.values() for port in each.get("ports", [])]
    assert len(published) == 4
    assert all(port.startswith(("${BIND_ADDRESS:-127.0.0.1}:", "${MONITORING_ADDRESS:-127.0.0.1}:")) for port in published)


@pytest.mark.parametrize("name", ["tracker", "tracker-2"])
def test_compose_without_tls_says_that_it_is_insecure_and_the_secure_file_takes_that_back(name: str) -> None:
    plain, secure = (parsed(path)["services"][name] for path in (ROOT / "docker-compose.yml", SECURE))
    assert plain["environment"]["MIXFORMER_INSECURE"] == "true"
    settings = load_settings({}, {**plain_values(plain["environment"]), **secure["environment"]})
    assert settings.is_open and not settings.lacks and not settings.insecure
    (mount,) = secure["volumes"]
    files = (settings.tls_cert, settings.tls_key, settings.token_file)
    assert {Path(each).parent for each in files} == {Path(mount["target"])}
    flags = plain_values(dict(enumerate(secure["healthcheck"]["test"][2:]))).values()
    asked = parse([*flags])
    assert (asked.command, asked.tls_name, asked.tls_ca.parent) == ("healthcheck", "tracker", Path(mount["target"]))


@pytest.mark.parametrize("name", ["tracker", "tracker-2"])
def test_compose_with_client_certificates_asks_for_them_and_its_health_check_has_one(name: str) -> None:
    plain, secure, mutual = (parsed(path)["services"][name] for path in (ROOT / "docker-compose.yml", SECURE, MUTUAL))
    settings = load_settings({}, {**plain_values(plain["environment"]), **secure["environment"], **mutual["environment"]})
    asked = parse([*plain_values(dict(enumerate(mutual["healthcheck"]["test"][2:]))).values()])
    files = (Path(settings.tls_client_ca), asked.tls_ca, asked.tls_cert, asked.tls_key)
    assert {each.parent for each in files} == {Path(secure["volumes"][0]["target"])}


@pytest.mark.parametrize("path", [SECURE, MUTUAL], ids=lambda path: path.name)
def test_the_load_tester_gives_its_flags_as_the_command_takes_them(path: Path) -> None:
    loadtest = parsed(path)["services"]["loadtest"]
    asked = parse([*plain_values(dict(enumerate(loadtest["command"]))).values()])
    assert (asked.command, asked.tls_name) == ("loadtest", "tracker")


def test_no_container_of_ours_has_a_capability_or_a_file_system_to_write_to() -> None:
    services = parsed(ROOT / "docker-compose.yml")["services"]
    # NVIDIA's exporter is not ours, and asks for more.
    for name in services.keys() - {"dcgm-exporter"}:
        assert (services[name]["read_only"], services[name]["cap_drop"]) == (True, ["ALL"]), name
        assert services[name]["security_opt"] == ["no-new-privileges:true"], name
    for kind in ("tracker", "envoy", "redis"):
        pod = manifests()["Deployment", kind]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_manifests_tell_clients_by_their_tokens_behind_envoys_tls() -> None:
    pod = manifests()["Deployment", "tracker"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = load_settings({}, {each["name"]: each["value"] for each in container["env"]})
    assert settings.insecure and settings.lacks == ("TLS (tls_cert, tls_key)",)
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "tokens")
    assert Path(settings.token_file).parent == Path(mount["mountPath"]) and mount["readOnly"]
    policy = manifests()["NetworkPolicy", "tracker"]["spec"]["ingress"]
    (grpc,) = (each for each in policy if {"port": "grpc"} in each["ports"])
    assert grpc["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "envoy"}}}]


def test_two_trackers_of_one_host_are_alike_but_for_their_ports() -> None:
    services = parsed(ROOT / "docker-compose.yml")["services"]
    first, second = services["tracker"], services["tracker-2"]
    assert {name for name in {*first, *second} if first.get(name) != second.get(name)} == {"build", "ports", "profiles"}


@pytest.mark.parametrize("name", ["tracker", "tracker-2"])
def test_the_cpu_file_takes_the_gpu_away(name: str) -> None:
    base, cpu = (parsed(path)["services"][name] for path in COMPOSE)
    (reserved,) = base["deploy"]["resources"]["reservations"]["devices"]
    assert reserved["capabilities"] == ["gpu"]
    assert cpu["deploy"] is None
    assert f":{cpu['environment']['MIXFORMER_CACHE_DIR']}" in cpu["volumes"][0]
    assert name != "tracker" or cpu["build"]["args"] == {"TORCH": "cpu"}


def test_the_files_that_compose_mounts_are_there() -> None:
    services = parsed(ROOT / "docker-compose.yml")["services"]
    mounts = [mount for each in services.values() for mount in each.get("volumes", []) if str(mount).startswith("./")]
    assert len(mounts) == 6
    assert [mount for mount in mounts if not (ROOT / mount.split(":")[0]).is_dir()] == []


@pytest.mark.parametrize("plan", GHZ_PLANS, ids=lambda path: path.stem)
def test_ghz_finds_its_plan_and_the_proto_in_its_container(plan: Path) -> None:
    ghz = parsed(ROOT / "docker-compose.yml")["services"]["ghz"]
    mounted = {target: source for source, target, _ in (mount.split(":") for mount in ghz["volumes"])}
    assert ROOT / mounted[ghz["working_dir"]] == plan.parent
    proto = Path(os.path.normpath(Path(ghz["working_dir"], json.loads(plan.read_text())["proto"])))
    assert (ROOT / mounted["/proto"] / proto.relative_to("/proto")).is_file()


def test_env_example_lists_the_variables_of_compose_with_their_defaults() -> None:
    files = (ROOT / "docker-compose.yml", SECURE, MUTUAL)
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", "".join(path.read_text() for path in files)))
    used["SECRETS"] = ""  # has no default
    listed = dict(re.findall(r"^# (\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    # Compose's own: which profiles are up.
    assert listed.pop("COMPOSE_PROFILES") in parsed(ROOT / "docker-compose.yml")["services"]["envoy"]["profiles"]
    assert listed.keys() == used.keys()
    assert {name: value for name, value in listed.items() if value != used[name]} == {"GRAFANA_WITHOUT_ADMIN": "false"}


def test_kustomize_takes_every_file_of_its_folder() -> None:
    kustomization = parsed(KUBERNETES / "kustomization.yaml")
    taken = {*kustomization["resources"], *(name for each in kustomization["configMapGenerator"] for name in each["files"])}
    assert taken == {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}


def test_kubernetes_asks_for_health_where_and_as_the_service_gives_it() -> None:
    pod = manifests()["Deployment", "tracker"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = load_settings({}, {each["name"]: each["value"] for each in container["env"]})
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert (settings.listen, settings.metrics) == (f"0.0.0.0:{ports['grpc']}", f"0.0.0.0:{ports['metrics']}")
    assert container["readinessProbe"]["grpc"] == container["startupProbe"]["grpc"] == {"port": ports["grpc"]}
    assert container["livenessProbe"]["grpc"] == {"port": ports["grpc"], "service": LIVE}
    announced = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > announced + settings.grace_seconds + 10


def test_kubernetes_mounts_the_secrets_that_the_tracker_reads() -> None:
    pod = manifests()["Deployment", "tracker"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = load_settings({}, {each["name"]: each["value"] for each in container["env"]})
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    secrets = {each["name"] for each in pod["volumes"] if "secret" in each}
    read = [settings.token_file, settings.token_keys, settings.store_password_file]
    assert {mounts[str(Path(each).parent)] for each in read} == secrets
    store = manifests()["Service", urlsplit(settings.store).hostname or ""]["spec"]
    assert store["ports"][0]["port"] == urlsplit(settings.store).port


def connection_of(path: Path) -> Any:
    """How an Envoy treats the connections that come to it."""
    (chain,) = parsed(path)["static_resources"]["listeners"][0]["filter_chains"]
    return chain["filters"][0]["typed_config"]


def test_envoy_on_one_host_does_as_the_one_in_kubernetes_for_the_trackers_that_compose_starts() -> None:
    assert connection_of(ONE_HOST) == connection_of(KUBERNETES / "envoy-config.yaml")
    (theirs,), (ours,) = (parsed(path)["static_resources"]["clusters"] for path in (KUBERNETES / "envoy-config.yaml", ONE_HOST))
    assert {name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name)} == {"load_assignment"}
    ends = ours["load_assignment"]["endpoints"][0]["lb_endpoints"]
    services = parsed(ROOT / "docker-compose.yml")["services"]
    assert [end["endpoint"]["address"]["socket_address"] for end in ends] == [
        {"address": name, "port_value": 50051} for name in services if name.startswith("tracker")
    ]
    listener = parsed(ONE_HOST)["static_resources"]["listeners"][0]["address"]["socket_address"]
    assert services["envoy"]["ports"][0].endswith(f":{listener['port_value']}")


def test_envoy_keeps_a_session_on_its_tracker_and_a_stream_without_end() -> None:
    resources = parsed(KUBERNETES / "envoy-config.yaml")["static_resources"]
    connection = connection_of(KUBERNETES / "envoy-config.yaml")
    route = connection["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    # Terminal: a camera that calls from another address comes to the same tracker.
    assert route["hash_policy"][0] == {"header": {"header_name": SESSION_METADATA}, "terminal": True}
    assert (route["timeout"], connection["stream_idle_timeout"]) == ("0s", "0s")
    (cluster,) = resources["clusters"]
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    tracker = manifests()["Service", address["address"]]["spec"]
    assert (tracker["clusterIP"], cluster["lb_policy"]) == ("None", "RING_HASH")
    assert address["port_value"] in {port["port"] for port in tracker["ports"]}


def pins(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ;]+)", path.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("lock", IMAGE_LOCKS, ids=lambda path: path.stem)
def test_the_image_holds_the_versions_that_are_tested(lock: Path) -> None:
    tested, image = pins(ROOT / "requirements.lock"), pins(lock)
    assert {name: found for name, found in image.items() if name in tested and not found <= tested[name]} == {}
    assert image["torch"] == {"2.13.0+cpu" if lock.stem == "cpu" else "2.13.0"}
    for file in ("Makefile", "pyproject.toml"):
        assert {each for each in re.findall(r"torch==([\d.]+)", (ROOT / file).read_text())} == {"2.13.0"}, file
    assert pins(ROOT / "requirements.lock").keys().isdisjoint({"torch"}), "its builds differ by platform, and so do its hashes"
    entries = re.split(r"\n(?=[a-z])", lock.read_text().strip())
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
