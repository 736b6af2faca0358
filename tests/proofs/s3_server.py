"""A real S3 server on a folder, for proofs: rclone's."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

BUCKET = "proofs"
KEY_ID, SECRET = "proof-key", "proof-secret"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """Serve folder; yields the port. The bucket is there."""
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    port = free_port()
    rclone = shutil.which("rclone", path=str(Path(sys.executable).parent)) or "rclone"
    command = [rclone, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    env = {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "RCLONE_AUTH_KEY": f'"{KEY_ID},{SECRET}"',
    }
    process = subprocess.Popen([*command, "--config", os.devnull], env=env, **quiet)
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def wait_for(port: int, patience_s: float = 30.0) -> None:
    give_up_at = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        assert time.monotonic() < give_up_at, f"nothing listens on port {port}"
        time.sleep(0.05)


def s3_client(port: int) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
