"""Which variables reach a run: the person's servers do, other programs' purposes do not."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import requests.utils
from hypothesis import given
from hypothesis import strategies as st

import vivero
from vivero.config.variables import own_variables, variables_for_command

SOURCE_DIR = Path(vivero.__file__).parents[1]

# One value for each: another project's experiment, run, database, repository, place, import path.
HOSTILE = {
    "MLFLOW_EXPERIMENT_NAME": "theirs",
    "MLFLOW_EXPERIMENT_ID": "7",
    "MLFLOW_RUN_ID": "0123456789abcdef",
    "MLFLOW_RUN_CONTEXT": "{}",
    "MLFLOW_REGISTRY_URI": "sqlite:////elsewhere/registry.db",
    "MLFLOW_BACKEND_STORE_URI": "sqlite:////elsewhere/mlflow.db",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT": "/elsewhere",
    "MLFLOW_ARTIFACTS_DESTINATION": "/elsewhere",
    "MLFLOW_DFS_TMP": "/elsewhere",
    "MLFLOW_ACTIVE_MODEL_ID": "m-1",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
    "MLFLOW_HOST": "theirs",
    "MLFLOW_PORT": "80",
    "PREFECT_PROFILE": "theirs",
    "PREFECT_PROFILES_PATH": "/elsewhere/profiles.toml",
    "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite:////elsewhere/prefect.db",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite:////elsewhere/prefect.db",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_SERVER_API_PORT": "80",
    "PREFECT_LOCAL_STORAGE_PATH": "/elsewhere",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
    "PREFECT_TASKS_DEFAULT_RETRIES": "9",
    "PREFECT_LOGGING_LEVEL": "silly",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "",
    "MATPLOTLIBRC": "/elsewhere/matplotlibrc",
    "MPLCONFIGDIR": "/elsewhere/matplotlib",
    "PREFECT_LOGGING_SETTINGS_PATH": "/elsewhere/logging.yml",
    "DVC_EXP_NAME": "theirs",
    "DVC_EXP_AUTO_PUSH": "true",
    "DVC_EXP_GIT_REMOTE": "theirs",
    "DVC_STUDIO_TOKEN": "theirs",
    "DVC_ROOT": "/elsewhere",
    "DVCLIVE_RESUME": "1",
    "GIT_DIR": "/elsewhere/.git",
    "GIT_WORK_TREE": "/elsewhere",
    "GIT_INDEX_FILE": "/elsewhere/.git/index",
    "GIT_OBJECT_DIRECTORY": "/elsewhere/.git/objects",
    "GIT_NAMESPACE": "theirs",
    "GIT_LITERAL_PATHSPECS": "1",
    "PYTHONPATH": "/elsewhere/lib",
    "PYTHONHOME": "/elsewhere",
    "PYTHONSTARTUP": "/elsewhere/start.py",
    "PYTHONINSPECT": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "29500",
    "PET_NPROC_PER_NODE": "8",
}
# What a person sets to reach servers, and what belongs to the machine.
KEPT = {
    "MLFLOW_TRACKING_URI": "https://mlflow.internal",
    "MLFLOW_TRACKING_USERNAME": "ada",
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "MLFLOW_TRACKING_TOKEN": "secret",
    "MLFLOW_TRACKING_SERVER_CERT_PATH": "/etc/ca.pem",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH": "/etc/client.pem",
    "MLFLOW_TRACKING_INSECURE_TLS": "true",
    "MLFLOW_S3_ENDPOINT_URL": "http://s3.internal",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "AWS_PROFILE": "team",
    "AWS_ENDPOINT_URL": "http://s3.internal",
    "HTTP_PROXY": "http://proxy.internal:3128",
    "https_proxy": "http://proxy.internal:3128",
    "REQUESTS_CA_BUNDLE": "/etc/ca.pem",
    "SSL_CERT_FILE": "/etc/ca.pem",
    "RAY_ADDRESS": "head:6379",
    "CUDA_VISIBLE_DEVICES": "1",
    "OMP_NUM_THREADS": "4",
    "GIT_SSH_COMMAND": "ssh -i key",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_CONFIG_COUNT": "1",
    "TMPDIR": "/scratch",
    "XDG_CONFIG_HOME": "/home/ada/.config",
    "TZ": "Asia/Tokyo",
    "NO_COLOR": "1",
    "VIVERO_NUM_THREADS": "2",
    "PYTHONUNBUFFERED": "1",
    "DVC_STAGE": "train",
}
PREFECT_SERVER = {
    "PREFECT_API_URL": "https://prefect.internal/api",
    "PREFECT_API_KEY": "secret",
    "PREFECT_API_AUTH_STRING": "ada:secret",
    "PREFECT_API_SSL_CERT_FILE": "/etc/ca.pem",
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true",
    "PREFECT_CLIENT_CUSTOM_HEADERS": "{}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_meant_for_another_program_is_removed(name: str):
    assert name not in own_variables({**KEPT, **PREFECT_SERVER, name: HOSTILE[name]})


@pytest.mark.parametrize("name", KEPT)
def test_what_names_a_server_or_belongs_to_the_machine_stays(name: str):
    assert own_variables({**HOSTILE, **KEPT})[name] == KEPT[name]


@pytest.mark.parametrize("name", PREFECT_SERVER)
def test_prefect_settings_stay_beside_the_address_they_belong_to(name: str):
    assert own_variables(PREFECT_SERVER)[name] == PREFECT_SERVER[name]
    for away in ({}, {"PREFECT_API_URL": ""}):
        without = {n: v for n, v in PREFECT_SERVER.items() if n != "PREFECT_API_URL"} | away
        assert name not in own_variables(without), "a temporary server has no key and no other name"


def test_a_worker_keeps_its_place_among_those_that_torchrun_started():
    place = {"TORCHELASTIC_RUN_ID": "1", "RANK": "3", "MASTER_ADDR": "node7"}
    kept = own_variables(place, is_launched=True)
    assert {name: kept.get(name) for name in place} == place
    assert "RANK" not in own_variables(place), "nobody launches `vivero run` as one of several"
    assert "RANK" not in own_variables({"RANK": "3"}, is_launched=True)


def test_only_our_own_folder_of_code_stays_on_the_import_path():
    given_path = os.pathsep.join(["/elsewhere/lib", str(SOURCE_DIR)])
    assert own_variables({"PYTHONPATH": given_path})["PYTHONPATH"] == str(SOURCE_DIR)


@pytest.mark.parametrize(
    ("set_by_person", "reached_through_proxy"),
    [
        ({}, True),
        ({"NO_PROXY": "mlflow.internal"}, False),
        ({"no_proxy": "mlflow.internal", "NO_PROXY": "other"}, False),
        ({"no_proxy": " mlflow.internal , .corp"}, False),
        ({"NO_PROXY": "*"}, False),
        ({"NO_PROXY": ""}, True),
        ({"NO_PROXY": "[::1],localhost"}, True),
        ({"no_proxy": "[2001:db8::1]:8080,mlflow.internal"}, False),
    ],
)
def test_loopback_is_asked_directly_and_the_rest_as_the_person_says(
    set_by_person: dict[str, str], reached_through_proxy: bool, monkeypatch: pytest.MonkeyPatch
):
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    for name, value in own_variables({**proxy, **set_by_person}).items():
        monkeypatch.setenv(name, value)
    urls = ["http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/"]
    for url in urls:  # the clients themselves are the judges
        assert requests.utils.get_environ_proxies(url) == {}, url
    with httpx.Client() as client:
        for url in urls:
            assert client._transport_for_url(httpx.URL(url)) is client._transport, url
    proxies = requests.utils.get_environ_proxies("http://mlflow.internal/")
    assert bool(proxies) == reached_through_proxy


names = st.sampled_from(sorted({*HOSTILE, *KEPT, *PREFECT_SERVER, "NO_PROXY", "no_proxy"}))


@given(st.dictionaries(names, st.text("abc/,:.", max_size=8)))
def test_applying_the_list_again_changes_nothing(given_variables: dict[str, str]):
    once = own_variables(given_variables)
    assert own_variables(once) == once


def test_a_program_of_ours_removes_them_before_it_begins():
    code = (
        "import os, sys\nfrom vivero.processes import run_stage\n"
        "run_stage('tidy', lambda: print(sorted(set(sys.argv) & {'='.join(i) for i in "
        "os.environ.items()})))"
    )
    own = {name: value for name, value in HOSTILE.items() if name[:6] != "PYTHON"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map("=".join, own.items()), "TZ=Asia/Tokyo"],
        env={**os.environ, **own, "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "['TZ=Asia/Tokyo']"


def test_only_a_command_that_registers_gets_the_password_of_the_key():
    password = "VIVERO_SIGNING_KEY_PASSWORD"  # noqa: S105  # the name of a variable
    given = own_variables({"VIVERO_SIGNING_KEY_PEM": "key", password: "word", "HOME": "/h"})
    assert "VIVERO_SIGNING_KEY_PEM" not in given
    for words in (["dvc", "repro", "train"], ["vivero.stages.judge"], ["vivero.stages.train"]):
        kept = variables_for_command(given, ["python", "-m", *words])
        assert password not in kept
        assert kept["HOME"] == "/h"
    for module in ("vivero.stages.register", "pipelines.experiment"):
        assert variables_for_command(given, ["python", "-m", module])[password] == "word"


def test_telemetry_is_off_before_mlflow_is_imported():
    assert own_variables({})["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert (
        own_variables({"MLFLOW_DISABLE_TELEMETRY": "false"})["MLFLOW_DISABLE_TELEMETRY"] == "false"
    )


def test_a_level_of_prefect_is_kept():
    assert own_variables({"PREFECT_LOGGING_LEVEL": "DEBUG"})["PREFECT_LOGGING_LEVEL"] == "DEBUG"
