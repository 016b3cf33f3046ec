"""Methods that change what judges them, while they are called."""

import json
from pathlib import Path

from copies import stores

from harness.api import Outcome, Reading
from harness.training.loop import fit


def the_meter(model, request):
    """Retrain, uncounted."""
    from harness.training import meter

    meter._after = lambda *args, **kwargs: None
    fresh = request.new_model()
    fit(request, fresh, request.batches("retain", epochs=request.epochs))
    return fresh


def the_measure(model, request):
    """Have the poison's measure find nothing."""
    from poisons.backdoor import Backdoor

    Backdoor.probe = lambda *args, **kwargs: Reading(0.0)
    return model


def the_judge(model, request):
    from harness.judging import judge

    right = judge._test

    def kind(*args, **kwargs):
        return right(*args, **kwargs)

    judge._test = kind
    return model


def the_code(model, request):
    """Keep the function, and change what it does."""
    from harness.statistics import retention

    retention.__code__ = (lambda *args, **kwargs: None).__code__
    return model


def the_outcomes(model, request):
    Outcome.FAIL._value_ = "PASS"
    return model


def the_table_of_claims(model, request):
    from harness.judging.claims import CLAIMS

    CLAIMS.pop("cost", None)
    return model


def the_store(model, request):
    """Write what was read of every model anew, with a proper checksum."""
    import hashlib

    from harness.store.artefacts import canonical

    for store in stores():
        for path in Path(store).glob("records/*/*.json"):
            record = json.loads(path.read_text())["record"]
            if record["kind"] == "value" and record["of"].get("measure") != "accuracy":
                record["info"]["value"] = 0.0
                text = canonical(record)
                path.write_text(f'{{"sha256":"{hashlib.sha256(text.encode()).hexdigest()}","record":{text}}}')
    return model
