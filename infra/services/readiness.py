"""Whether a service does its work: asked the way its users ask, not whether its process lives."""

import base64
import json
import urllib.request
from collections.abc import Callable
from typing import Any

import boto3
import botocore.exceptions
import psycopg2
from botocore.config import Config

from infra.services import postgres
from infra.services.settings import BUCKETS, DATABASE_PASSWORD, Settings

TIMEOUT_S = 5.0

Env = dict[str, str]


def is_ready(settings: Settings, service: str, env: Env) -> bool:
    """Whether a service answers a real question; False while it does not, or not yet."""
    try:
        return CHECKS[service](settings, env)
    except (OSError, ValueError, psycopg2.Error, botocore.exceptions.BotoCoreError):
        return False
    except botocore.exceptions.ClientError:
        return False


def s3_client(env: Env) -> Any:  # boto3 makes its classes at run time
    """A client of the S3 server that gives up soon."""
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
        config=Config(
            connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries={"total_max_attempts": 1}
        ),
    )


def authorization(user_and_password: str) -> dict[str, str]:
    """The header of a request that signs in, from `user:password`."""
    token = base64.b64encode(user_and_password.encode()).decode()
    return {"Authorization": f"Basic {token}"}


def of_mlflow(env: Env) -> dict[str, str]:
    """The header for MLflow."""
    return authorization(f"{env['MLFLOW_TRACKING_USERNAME']}:{env['MLFLOW_TRACKING_PASSWORD']}")


def of_prefect(env: Env) -> dict[str, str]:
    """The header for Prefect."""
    return authorization(env["PREFECT_API_AUTH_STRING"])


def post(url: str, body: object, headers: dict[str, str]) -> Any:
    """The JSON answer to a JSON question.

    Raises:
        OSError: When nobody answers, or with a refusal.
        ValueError: When the answer is no JSON.
    """
    request = urllib.request.Request(  # noqa: S310  # an address of ours
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return json.load(answer)


def _postgres(settings: Settings, env: Env) -> bool:
    postgres.connect(settings, env[DATABASE_PASSWORD]).close()
    return True


def _s3(_settings: Settings, env: Env) -> bool:
    there = {bucket["Name"] for bucket in s3_client(env).list_buckets()["Buckets"]}
    return there >= set(BUCKETS)


def _mlflow(_settings: Settings, env: Env) -> bool:
    url = env["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/experiments/search"
    return isinstance(
        post(url, {"max_results": 1}, of_mlflow(env)), dict
    )  # {} from one that was emptied


def _prefect(_settings: Settings, env: Env) -> bool:
    url = env["PREFECT_API_URL"] + "/work_pools/filter"  # asks the database, and for the password
    return isinstance(post(url, {"limit": 1}, of_prefect(env)), list)


def _worker(_settings: Settings, env: Env) -> bool:
    workers = post(env["PREFECT_API_URL"] + "/work_pools/local/workers/filter", {}, of_prefect(env))
    return any(worker["name"] == "local" and worker["status"] == "ONLINE" for worker in workers)


CHECKS: dict[str, Callable[[Settings, Env], bool]] = {
    "postgres": _postgres,
    "s3": _s3,
    "mlflow": _mlflow,
    "prefect": _prefect,
    "worker": _worker,
}
