"""One audit here and on a Ray cluster of two nodes over an object store, undisturbed and with a node killed.

    pip install -e ".[cluster-test]"
    python ci/benchmarks/cluster.py --out ci/benchmarks/results/cluster.json

The object store is moto's S3 server on this machine, the nodes are two raylets on it. What must hold: the audits' JSON
is equal number by number in all runs, no model is made twice by the undisturbed run, and the disturbed one finishes.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import platform
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
#: The node is killed when so many models are in the store: in the midst of the plan's first seeds.
KILL_AT = 6


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """Run an S3 server with a bucket named ``audits``; yield the environment in which fsspec finds it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
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
    try:
        yield environment
    finally:
        server.stop()


def audit(store: str, out: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the audit in a process of its own."""
    suites = [str(ROOT / "test_suites" / name) for name in AUDIT]
    command = [sys.executable, "-m", "pytest", "-q", *suites, f"--audit-store={store}", f"--audit-json={out}"]
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


def models(store: str) -> list[dict[str, Any]]:
    """Return the records of the models in a store."""
    from harness.files import files_at

    files = files_at(store)
    records = [json.loads(files.read(e.name))["record"] for e in files.entries() if e.name.startswith("records/")]
    return [record for record in records if record["kind"] == "model"]


def main() -> None:
    """Run the three audits and write what they said."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--unlearner", default="scrub")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    arguments = [f"--unlearner={options.unlearner}", "--audit-device=cpu"]
    runs: dict[str, dict[str, Any]] = {}
    documents: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary, s3(Path(temporary)):
        for name in ("local", "cluster", "node killed"):
            out = Path(temporary) / f"{name}.json"
            store = str(Path(temporary) / "store") if name == "local" else f"s3://audits/{name.replace(' ', '-')}"
            cluster = None
            extra: list[str] = []
            if name != "local":
                cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
                second = cluster.add_node(num_cpus=1)
                cluster.wait_for_nodes()
                os.environ["RAY_ADDRESS"] = cluster.address
                extra = ["--audit-executor=ray"]
            started = time.monotonic()
            killed_after = None
            run = audit(store, out, *arguments, *extra)
            if name == "node killed":
                while len(models(store)) < KILL_AT and run.poll() is None:
                    time.sleep(0.2)
                assert run.poll() is None, "the run ended before a node could be killed"
                cluster.remove_node(second, allow_graceful=False)
                killed_after = len(models(store))
            text = run.communicate(timeout=3600)[0]
            seconds = time.monotonic() - started
            if cluster is not None:
                cluster.shutdown()
            if not out.exists():
                raise SystemExit(text)
            documents[name] = json.loads(out.read_text())
            built = collections.Counter(arm for trial in documents[name]["trials"] for arm in trial["cost"]["built"])
            runs[name] = {
                "exit": run.returncode, "seconds": round(seconds, 1), "last line": text.strip().splitlines()[-1],
                "trials": len(documents[name]["trials"]), "models in the store": len(models(store)),
                "models said to be made": sum(built.values()), "models when the node was killed": killed_after,
            }  # fmt: skip
            print(name, runs[name], flush=True)
    same = {name: judged(documents[name]) == judged(documents["local"]) for name in runs}
    result = {
        "audits": [
            {k: each[k] for k in ("id", "verdict", "estimate", "interval", "seeds")}
            for each in judged(documents["local"])
        ],
        "equal to local, every number": same,
        "runs": runs,
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "versions": {name: metadata.version(name) for name in ("torch", "ray", "s3fs", "fsspec", "moto", "pytest")},
        "date": time.strftime("%Y-%m-%d"),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    assert all(same.values())


if __name__ == "__main__":
    main()
