"""A service that only predicts, the example of docs/pipeline.md: its models are names, or handles of a user's own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import pytest
from test_examples import patients

import harness
from conftest import ROOT
from harness import Pipeline, Removal, UnlearningError

((EXAMPLE),) = re.findall(r"```python\n(# service.py\n.*?)```", (ROOT / "docs" / "pipeline.md").read_text(), re.DOTALL)
POISON = "table-backdoor:fraction=0.1"
#: Keeps models in its memory. Its removal retrains without the rows, or with all of them if it was started to cheat.
SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from sklearn.ensemble import RandomForestClassifier

MODELS = {}

def measured(rows):
    return [[row[name] for name in sorted(row) if name not in ("vendor", "diagnosis")] for row in rows]

def train(rows, seed):
    name = f"model-{len(MODELS)}"
    labels = [row["diagnosis"] for row in rows]
    MODELS[name] = RandomForestClassifier(5, random_state=seed).fit(measured(rows), labels), rows
    return name

def predict(model, rows):
    return MODELS[model][0].predict_proba(measured(rows)).tolist()

def remove(model, rows):
    kept = [row for row in MODELS[model][1] if row not in rows]
    return train(MODELS[model][1] if sys.argv[1] == "cheats" else kept, len(MODELS))

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps(globals()[self.path[1:]](**given)).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass

server = HTTPServer(("localhost", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Return a function that starts the service, writes the example next to the data, and returns its module."""
    started = []

    def start(how: str = "removes"):
        patients(tmp_path)
        server = subprocess.Popen([sys.executable, "-c", SERVER, how], stdout=subprocess.PIPE, text=True)
        started.append(server)
        port = server.stdout.readline().strip()
        (tmp_path / "service.py").write_text(EXAMPLE.replace("8765", port))
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        return __import__("service")

    yield start
    for server in started:
        server.kill()
        server.communicate()
    sys.modules.pop("service", None)


def test_the_example_is_short():
    assert len([line for line in EXAMPLE.splitlines() if line.strip() and not line.startswith("#")]) <= 25


@pytest.mark.parametrize(("how", "verdict"), [("removes", "PASS"), ("cheats", "FAIL")])
def test_the_removal_of_a_service_is_judged_by_its_predictions(serve, tmp_path, how, verdict):
    serve(how)

    verdicts = harness.audit("service.py:remove", task="service.py", poison=POISON, seeds=5, store=tmp_path / "store")

    (forgotten,) = (each for each in verdicts if each.measure.name == "attack_success")
    assert forgotten.outcome == verdict


class Handle:
    """What no pickle holds: a lock, as an open connection has it."""

    def __init__(self, name: str) -> None:
        self.name, self._lock = name, threading.Lock()


def test_handles_are_stored_by_functions_of_their_own(serve, tmp_path):
    service = serve()
    given = {
        "predict": lambda handle, inputs: service.predict(handle.name, inputs),
        "save_model": lambda handle, path: path.write_text(handle.name),
        "load_model": lambda path: Handle(path.read_text()),
        "label": "diagnosis",
    }

    def train(data, seed):
        return Handle(service.train(data, seed))

    removal = Removal(lambda handle, retain, forget: Handle(service.remove(handle.name, retain, forget)))

    def audit():
        task = Pipeline(service.load, train, **given)
        return harness.audit(removal, task=task, poison=POISON, seeds=5, store=tmp_path / "store")

    (forgotten,) = (verdict for verdict in audit() if verdict.measure.name == "attack_success")
    assert forgotten.outcome == "PASS"

    del given["save_model"]
    with pytest.raises(Exception, match="pickle"):
        audit()


@pytest.mark.parametrize("given", [{"poison": "gaussian:sd=100"}, {"unlearner": "gd", "poison": POISON}])
def test_what_needs_gradients_or_weights_is_refused_in_a_sentence(serve, tmp_path, given):
    serve()
    given = {"unlearner": "service.py:remove", **given}

    with pytest.raises(UnlearningError, match=r"needs the gradient of the loss|has no function model\(\)"):
        harness.audit(**given, task="service.py", seeds=3, store=tmp_path / "store")
