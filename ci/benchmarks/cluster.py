"""One audit here and on a Ray cluster of two nodes over an object store, undisturbed and with nodes and drivers killed.

    pip install -e ".[cluster-test]"
    python ci/benchmarks/cluster.py [--kills 5] --out ci/benchmarks/results/cluster.json

The object store is moto's S3 server on this machine, the nodes are two raylets on it. Every run has a store and a
cluster of its own. In some a node is killed (SIGKILL) and another one joins, in one the process of pytest, which is
then run again; when, is drawn: by how many models are in the store, from the first to nearly the last, and by a delay,
so that it happens anywhere in a training. What must hold: the audits' JSON is equal number by number in all runs, and
no model that was in the store at a kill is made again. The bucket keeps every version of every file, which shows what
was written more than once.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parent.parent.parent
AUDIT = ["test_forgetting.py", "test_utility.py", "test_budget.py"]
POISONS = ["--poison=backdoor", "--poison=gaussian"]
LATEST = 0.95  # of the models: later, a run may be over before it is disturbed
DELAY = 1.5  # seconds; a training takes about so long


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """Run an S3 server with a bucket ``audits`` that keeps versions; yield the environment in which fsspec finds it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }  # fmt: skip
    os.environ |= environment
    import fsspec

    fsspec.filesystem("s3").mkdir("audits")
    bucket().put_bucket_versioning(Bucket="audits", VersioningConfiguration={"Status": "Enabled"})
    try:
        yield environment
    finally:
        server.stop()


def audit(store: str, out: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the audit in a process of its own."""
    suites = [str(ROOT / "test_suites" / name) for name in AUDIT]
    command = [sys.executable, "-m", "pytest", "-q", *suites, *POISONS, f"--audit-store={store}", f"--audit-json={out}"]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def judged(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the audits without what differs from run to run by its nature: seconds, and lines that name the store."""
    found = []
    for each in document["audits"]:
        details = {name: value for name, value in each.get("details", {}).items() if "seconds" not in name}
        found.append({k: v for k, v in each.items() if k not in ("seconds", "command", "load")} | {"details": details})
    return found


def bucket() -> Any:
    """Return a client of the S3 server."""
    import boto3

    return boto3.client("s3", endpoint_url=os.environ["FSSPEC_S3_ENDPOINT_URL"])


def records(store: str, known: dict[str, dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Return the records of a store by name; those that are known are not read again."""
    from harness.store.files import files_at

    files, known = files_at(store), {} if known is None else known
    names = [entry.name for entry in files.entries() if entry.name.startswith("records/")]
    known |= {name: json.loads(files.read(name))["record"] for name in names if name not in known}
    return known


def models(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return those records that are of models."""
    return {name: record for name, record in found.items() if record["kind"] == "model"}


def written_again(store: str, found: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Return how many records of each kind were written more than once."""
    prefix = store.removeprefix("s3://audits/") + "/"
    pages = bucket().get_paginator("list_object_versions").paginate(Bucket="audits", Prefix=f"{prefix}records/")
    times = collections.Counter(each["Key"].removeprefix(prefix) for page in pages for each in page.get("Versions", ()))
    assert set(times) == set(found)
    kinds = collections.Counter(found[name]["kind"] for name, count in times.items() if count > 1)
    return {"model": 0} | dict(kinds)


def run_on_cluster(
    store: str, out: Path, arguments: list[str], kill: str = "", at: int = 0, delay: float = 0.0
) -> tuple[str, int, dict[str, Any]]:
    """Run the audit on a new cluster; kill a node or the driver when so many models are there, and a delay after.

    Returns:
        What pytest printed, its exit code, and what there is to say.
    """
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = nodes.address
    arguments = [*arguments, "--audit-executor=ray"]
    found: dict[str, Any] = {}
    try:
        run = audit(store, out, *arguments)
        if kill:
            known: dict[str, dict[str, Any]] = {}
            while len(models(records(store, known))) < at and run.poll() is None:
                time.sleep(0.1)
            time.sleep(delay)
            assert run.poll() is None, "the run ended before it could be disturbed"
            there = records(store)
            if kill == "node":
                nodes.remove_node(second, allow_graceful=False)
                nodes.add_node(num_cpus=1)
            else:
                run.send_signal(signal.SIGKILL)
                run.communicate()
                run = audit(store, out, *arguments)
        text = run.communicate(timeout=3600)[0]
        after = records(store)
        if kill:
            again = [name for name, record in models(there).items() if after[name]["made"] != record["made"]]
            found = {"killed": kill, "models then": len(models(there)), "of these made again": len(again)}
        found["records written more than once"] = written_again(store, after)
        return text, run.returncode, found
    finally:
        nodes.shutdown()


def main() -> None:
    """Run the audits and write what they said."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--unlearner", default="scrub")
    parser.add_argument("--kills", type=int, default=5, help="in so many runs a node is killed, and in one the driver")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    arguments = [f"--unlearner={options.unlearner}", "--audit-device=cpu"]
    chance = random.Random(0)
    runs: dict[str, dict[str, Any]] = {}
    documents: dict[str, dict[str, Any]] = {}
    names = ["local", "cluster", *(f"node killed {i + 1}" for i in range(options.kills)), "driver killed"]
    with tempfile.TemporaryDirectory() as temporary, s3(Path(temporary)):
        for name in names:
            out = Path(temporary) / f"{name}.json"
            started = time.monotonic()
            if name == "local":
                store = str(Path(temporary) / "store")
                run = audit(store, out, *arguments)
                text, code, found = run.communicate(timeout=3600)[0], run.returncode, {}
            else:
                store, when = f"s3://audits/{name.replace(' ', '-')}", {}
                if "killed" in name:
                    # Nodes die one in each part of the plan, so that none is left out.
                    share = chance.random()
                    if name.startswith("node"):
                        share = (names.index(name) - 2 + share) / options.kills
                    at = 1 + int(LATEST * share * runs["local"]["models in the store"])
                    when = {"kill": name.partition(" ")[0], "at": at, "delay": chance.uniform(0, DELAY)}
                text, code, found = run_on_cluster(store, out, arguments, **when)
            if not out.exists():
                raise SystemExit(text)
            documents[name] = json.loads(out.read_text())
            built = collections.Counter(arm for trial in documents[name]["trials"] for arm in trial["cost"]["built"])
            runs[name] = {
                "exit": code, "seconds": round(time.monotonic() - started, 1),
                "last line": text.strip().splitlines()[-1], "trials": len(documents[name]["trials"]),
                "models in the store": len(models(records(store))), "models said to be made": sum(built.values()),
                "audits equal to local": judged(documents[name]) == judged(documents["local"]), **found,
            }  # fmt: skip
            print(name, runs[name], flush=True)
    result = {
        "audits": [
            {k: each[k] for k in ("id", "verdict", "estimate", "interval", "seeds")}
            for each in judged(documents["local"])
        ],
        "runs": runs,
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "versions": {name: metadata.version(name) for name in ("torch", "ray", "s3fs", "fsspec", "moto", "pytest")},
        "date": time.strftime("%Y-%m-%d"),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    assert all(run["audits equal to local"] and not run.get("of these made again") for run in runs.values())


if __name__ == "__main__":
    main()
