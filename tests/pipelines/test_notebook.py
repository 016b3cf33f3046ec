"""A pipeline in a notebook, where functions are typed at a prompt."""

from __future__ import annotations

import nbformat
from nbconvert.preprocessors import ExecutePreprocessor

CELLS = (
    """
import harness
import numpy as np
from sklearn.tree import DecisionTreeClassifier

def load():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 4))
    return (inputs[:200], (inputs[:200, 0] > 0) * 1), (inputs[200:], (inputs[200:, 0] > 0) * 1)

def train(data, seed):
    return DecisionTreeClassifier(random_state=seed, max_features=2).fit(*data)

def predict(model, inputs):
    return model.predict_proba(inputs)

def remove(model, retain, forget):
    return train(retain, np.random.randint(2**31))
""",
    """
task = harness.Pipeline(load, train, predict=predict)
options = dict(task=task, poison="source:mislabelled=true", seeds=5, store="store")
methods = remove, lambda model, *_: model
print([harness.audit(harness.Removal(method), **options)[0].outcome.value for method in methods])
""",
)


def test_a_notebook_audits_its_own_functions(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])

    ExecutePreprocessor(timeout=300, kernel_name="python3").preprocess(notebook, {"metadata": {"path": str(tmp_path)}})

    (output,) = [each for each in notebook.cells[1].outputs if each.output_type == "stream" and each.name == "stdout"]
    assert output.text.strip().splitlines()[-1] == "['PASS', 'FAIL']"
