"""Preflight checks of the machine, the ports and the store.

Every check yields a `Finding`: the subject, its state, the measured value and, if it is not ok, the fix.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headwater.cluster.extras import EXTRAS
from headwater.cluster.storage.filesystem import filesystem, is_remote
from headwater.cluster.versions import recorded_versions

if TYPE_CHECKING:
    from packaging.requirements import Requirement

State = Literal["ok", "warning", "error"]

GB = 1e9
MEMORY_GB = 6.0
"""Peak memory of the quickstart, in GB."""
DISK_GB = 5.0
SHM_SHARE = 0.3
"""Fraction of memory that Ray's object store takes by default (`ray_constants`)."""
OPEN_FILES = 4096
"""Minimum limit of open files for a small cluster. Ray's docs recommend 65,536 for large ones."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's name for it
CLOCK_SECONDS = 5.0
"""Largest accepted clock drift. S3 rejects requests 15 minutes off; log times become useless much earlier."""
PROBE = ".headwater-doctor"


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    what: str
    state: State
    found: str
    fix: str = ""


def machine() -> Iterator[Finding]:
    """Check the local machine. Starts no process and makes no network request."""
    yield from _software()
    yield _cores()
    yield from _memory()
    yield _gpus()
    yield _disk("temporary files", tempfile.gettempdir())
    yield _open_files()


def ports(wanted: Mapping[int, str], host: str = "127.0.0.1") -> Iterator[Finding]:
    """Check that the ports are free. `wanted` maps each port to its purpose."""
    for port, purpose in wanted.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                fix = f"stop the process that uses it, or choose another port for {purpose}"
                yield Finding(f"port {port}", "warning", f"{purpose}: {error.strerror}", fix)
            else:
                yield Finding(f"port {port}", "ok", f"{purpose}: free")


def store(location: str) -> Iterator[Finding]:
    """Check permissions and free space of the store."""
    if is_remote(location):
        yield from _s3(location)
        return
    path = Path(filesystem(location)[1])
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    try:  # a permission alone does not say it: nobody can write to /proc
        tempfile.TemporaryDirectory(prefix=PROBE, dir=existing).cleanup()
    except OSError as error:
        fix = "choose another `store`, or change its owner"
        yield Finding("store", "error", f"{existing} cannot be written ({error.strerror})", fix)
    else:
        yield Finding("store", "ok", f"{path} is writable")
    yield _disk("store", str(existing))


# -- this machine --------------------------------------------------------------------------------
def _software() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "ok", version)
    found = recorded_versions()
    for package in ("torch", "deepspeed", "transformers"):
        if package not in found:
            fix = "pip install 'headwater[train,serve]'; `headwater clean` works without it"
            yield Finding(package, "warning", "not installed", fix)
    yield Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in found.items()))
    wrong = [line for line in _unmet() if line]
    if wrong:
        yield Finding("requirements", "error", "; ".join(wrong[:3]), "make install")


def _unmet(distribution: str = "headwater") -> Iterator[str]:
    """Requirements of the project that the installed packages do not meet."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        core = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not core and not _of_an_extra(requirement):
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if core:
                yield f"{requirement.name} is missing"
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} {found} does not satisfy {requirement.specifier}"


def _of_an_extra(requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is not None and any(marker.evaluate({"extra": extra}) for extra in EXTRAS)


def _cores() -> Finding:
    allowed = getattr(os, "sched_getaffinity", None)  # macOS has no such call
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    if cores < 2:
        return Finding("cores", "warning", str(cores), "use at least two; stages wait for each other")
    return Finding("cores", "ok", str(cores))


def _memory() -> Iterator[Finding]:
    total = memory_limit()
    state: State = "ok" if total >= MEMORY_GB * GB else "warning"
    fix = f"the quickstart peaks at {MEMORY_GB:.0f} GB: lower `micro_batch` or `depth`"
    yield Finding("memory", state, f"{total / GB:.1f} GB", "" if state == "ok" else fix)
    if sys.platform == "darwin":
        return  # shared memory is no file system there
    if not SHARED_MEMORY.exists():
        yield Finding(
            "shared memory", "warning", "no /dev/shm", "Ray falls back to files in /tmp, which is slow"
        )
        return
    shared = shutil.disk_usage(SHARED_MEMORY).total
    if shared < min(total * SHM_SHARE, 1 << 30):
        fix = "enlarge it: docker run --shm-size, or a memory emptyDir at /dev/shm in Kubernetes"
        yield Finding("shared memory", "warning", f"{shared / GB:.1f} GB", fix)
    else:
        yield Finding("shared memory", "ok", f"{shared / GB:.1f} GB")


def memory_limit() -> float:
    """Memory limit of this process in bytes: the smaller of physical memory and its cgroup limit."""
    physical = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(physical, float(text))
    return physical


def _gpus() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("GPUs", "ok", "not looked for: torch is not installed")
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("GPUs", "ok", f"{len(names)}: {names[0]}; CUDA {torch.version.cuda}")
    if Path("/dev/nvidia0").exists():
        fix = "this build of torch has no CUDA: make install TORCH_INDEX=…"
        return Finding("GPUs", "error", "present, but torch does not see them", fix)
    return Finding("GPUs", "ok", "none: training runs on the CPU over gloo")


def _disk(what: str, path: str) -> Finding:
    free = shutil.disk_usage(path).free
    if free < DISK_GB * GB:
        return Finding(
            f"space for {what}",
            "warning",
            f"{free / GB:.1f} GB free at {path}",
            f"make {DISK_GB:.0f} GB free",
        )
    return Finding(f"space for {what}", "ok", f"{free / GB:.1f} GB free at {path}")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        return Finding("open files", "warning", f"{soft} allowed", f"ulimit -n {min(65536, hard)}")
    return Finding("open files", "ok", f"{soft} allowed")


# -- S3 ------------------------------------------------------------------------------------------
def _s3(location: str) -> Iterator[Finding]:
    """Check every permission that a store needs by using it. The probe object is deleted afterwards."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = location.removeprefix("s3://").strip("/").partition("/")
    key = "/".join(part for part in (prefix, PROBE) if part)
    config = Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 2})
    try:
        client: Any = boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        yield Finding("S3", "error", str(error), "check AWS_REGION and AWS_ENDPOINT_URL")
        return
    steps = {
        "find the bucket": lambda: client.head_bucket(Bucket=bucket),
        "write": lambda: client.put_object(Bucket=bucket, Key=key, Body=b"1"),
        "read": lambda: client.get_object(Bucket=bucket, Key=key),
        "list": lambda: client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1),
        "delete": lambda: client.delete_object(Bucket=bucket, Key=key),
    }
    answer: dict[str, Any] = {}
    for right, use in steps.items():
        try:
            answer = use()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            fix = {
                "404": f"create the bucket {bucket}",
                "NoSuchBucket": f"create the bucket {bucket}",
                "AccessDenied": f"grant the key s3 {right} on {location}",
                "403": f"grant the key s3 {right} on {location}",
                "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
                "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
                "RequestTimeTooSkewed": "set this machine's clock",
            }.get(code, "look up the code in your object store's documentation")
            yield Finding(f"S3 {right}", "error", f"refused ({code})", fix)
            if right == "find the bucket" and code in ("404", "NoSuchBucket"):
                return
        except BotoCoreError as error:
            fix = "check the credentials and AWS_ENDPOINT_URL, and that this machine reaches the endpoint"
            yield Finding(f"S3 {right}", "error", str(error), fix)
            return
        else:
            yield Finding(f"S3 {right}", "ok", location)
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if date:
        drift = abs(time.time() - parsedate_to_datetime(date).timestamp())
        state: State = "ok" if drift <= CLOCK_SECONDS else "error"
        yield Finding("clock against S3", state, f"{drift:.0f} s off", "" if state == "ok" else "run NTP")
