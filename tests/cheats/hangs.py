"""Methods that never come back."""

import time


def sleeps(model, request):
    time.sleep(10_000)


def holds_on(model, request):
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue
