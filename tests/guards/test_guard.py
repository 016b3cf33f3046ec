"""What a plugin replaces, rewrites, touches or leaves running is refused and put back."""

import math
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import harness.judging.judge
import harness.statistics.equivalence
from harness.api import ContractError
from harness.calling import PluginExit
from harness.guards import clock
from harness.guards.clock import TimedOut, limited
from harness.guards.guard import called_back, guarded, importing
from harness.guards.running import raise_in

WHO = "the unlearner 'x'"


def refused(act, line, **options):
    with pytest.raises(ContractError) as raised, guarded(WHO, **options):
        act()
    assert raised.value.line == line
    return str(raised.value)


def swap(owner, name, value=lambda *_, **__: 0.0):
    return lambda: setattr(owner, name, value)


equivalence = sys.modules["harness.statistics.equivalence"]  # the package has a function of this name
FUNCTION = equivalence.equivalence
PLACES = [
    (torch.nn.functional, "cross_entropy"), (torch, "relu"), (torch.Tensor, "backward"), (torch.Tensor, "__add__"),
    (torch.nn.Module, "__call__"), (torch.nn.Linear, "forward"), (torch.optim.SGD, "step"), (np, "mean"),
    (math, "sqrt"), (time, "perf_counter"), (equivalence, FUNCTION.__name__), (harness.judging.judge, "judge"),
    (harness.judging.judge, "DOSES"),
]  # fmt: skip


@pytest.mark.parametrize(("owner", "name"), PLACES, ids=lambda each: getattr(each, "__name__", each))
def test_what_is_replaced_is_named_and_put_back(owner, name):
    before = getattr(owner, name)
    assert f".{name}" in refused(swap(owner, name), "patches")
    assert getattr(owner, name) is before


def test_a_function_that_is_rewritten_is_what_it_was():
    before = FUNCTION.__code__, FUNCTION.__defaults__

    def rewrites():
        FUNCTION.__code__ = (lambda *_, **__: 0.0).__code__
        FUNCTION.__defaults__ = (1,)

    assert FUNCTION.__name__ in refused(rewrites, "patches")
    assert (FUNCTION.__code__, FUNCTION.__defaults__) == before


def test_a_poisons_and_a_stores_functions_are_watched_too():
    import safetensors.torch

    from poisons.gaussian import Gaussian

    for function in (Gaussian.probe, safetensors.torch.save):
        before = function.__code__

        def rewrites(function=function):
            function.__code__ = (lambda *_, **__: 0.0).__code__

        assert function.__qualname__ in refused(rewrites, "patches")
        assert function.__code__ is before


def test_a_module_with_one_function_may_count_in_a_global(tmp_path, monkeypatch):
    (tmp_path / "one_task.py").write_text("COUNT = 0\n\n\ndef load():\n    global COUNT\n    COUNT += 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import one_task

    from harness.guards.patches import SEAL

    SEAL.watch("one_task")
    with guarded(WHO):
        one_task.load()
    assert one_task.COUNT == 1
    assert "one_task.load" in refused(swap(one_task, "load"), "patches")


def test_a_setting_that_cannot_be_put_back_keeps_no_other_from_it(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)

    def leaves():
        os.chdir(tmp_path)
        gone.rmdir()
        np.seterr(all="raise")

    before = np.geterr()
    assert "the working directory" in refused(leaves, "settings")
    assert np.geterr() == before


def test_a_link_to_the_store_is_the_store(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for closed, read in (("link", "real"), ("real", "link")):
        assert "x.json" in refused((tmp_path / read / "x.json").read_text, "", closed=(str(tmp_path / closed),))


def test_a_name_that_hides_a_builtin_of_a_module_is_removed():
    refused(swap(equivalence, "len"), "patches")
    assert "len" not in vars(equivalence)


def test_a_constant_that_is_changed_in_place_is_what_it_was():
    from harness.contract.lines import LINES

    before = dict(LINES)
    refused(lambda: LINES.pop("settings"), "patches")
    assert before == LINES


def test_a_module_that_stands_in_for_ours_is_replaced():
    refused(lambda: sys.modules.__setitem__(equivalence.__name__, math), "patches")
    assert sys.modules[equivalence.__name__] is equivalence


def test_functions_that_were_replaced_before_are_nobodys_fault(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    with guarded(WHO):
        pass


def test_optimisers_and_compilers_that_torch_wraps_are_no_breach():
    class Own(torch.optim.SGD):
        pass

    with guarded(WHO):
        parameter = torch.nn.Parameter(torch.zeros(1))
        Own([parameter], 0.1).step()
        torch.optim.Adadelta([parameter]).step()


@pytest.mark.parametrize("by", ["method", "import"])
def test_a_module_of_ours_that_is_imported_and_patched_at_once_is_noticed(by, tmp_path):
    code = f"""
from harness.guards.guard import guarded, importing
from harness.api import ContractError
import sys
assert "harness.statistics.power" not in sys.modules
try:
    with {'guarded("x")' if by == "method" else 'importing("x")'}:
        import harness.statistics.power as power
        name = next(n for n, v in vars(power).items() if getattr(v, "__module__", "") == power.__name__)
        setattr(power, name, lambda *_: 0.0)
except ContractError as error:
    print(error.line, name in str(error))
with importing("x"):
    import harness.statistics.bounds, harness.judging.judge, harness.report.words
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "patches True\n"


def test_files_of_the_store_and_of_the_harness_are_out_of_bounds(tmp_path):
    record = tmp_path / "records" / "ab" / "x.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    closed = (str(tmp_path / "records"),)
    for act in (record.read_text, lambda: os.listdir(tmp_path / "records"), lambda: record.rename(tmp_path / "y")):
        record.write_text("{}")
        assert str(tmp_path / "records") in refused(act, "", closed=closed)
    source = equivalence.__file__

    def opens():
        with open(source, "r+"):
            pass

    assert source in refused(opens, "")
    with guarded(WHO, closed=closed):
        (tmp_path / "mine.txt").write_text("what it writes elsewhere is its own")
        with open(source):
            pass
        with called_back():
            (tmp_path / "records" / "y").write_text("this is the harness")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_and_processes_that_are_left_are_ended():
    over = threading.Event()

    def spins():
        while not over.is_set():
            time.sleep(0.01)

    said = refused(threading.Thread(target=spins, name="spins").start, "leaves-nothing-running")
    assert "the thread 'spins'" in said
    over.set()
    children = []

    def forks():
        children.append(subprocess.Popen(["sleep", "60"]))

    assert "the process" in refused(forks, "leaves-nothing-running")
    with pytest.raises(ProcessLookupError):
        os.kill(children[0].pid, 0)
    children[0].returncode = -9  # it was waited for


def test_what_ends_by_itself_and_idle_pools_are_no_breach():
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    with guarded(WHO):
        threading.Thread(target=lambda: time.sleep(0.2)).start()
        child = subprocess.Popen(["sleep", "0.1"])
        pool.submit(int).result()
    pool.shutdown()
    assert child.wait() == 0


def test_a_call_that_takes_too_long_is_interrupted_even_if_it_does_not_want_to():
    caught = []

    def hangs():
        with guarded(WHO, seconds=0.2, longer="; give it more"):
            while True:
                try:
                    time.sleep(30)
                except Exception as error:
                    caught.append(error)
                    if len(caught) > 1:
                        raise

    started = time.monotonic()
    with pytest.raises(TimedOut, match=r"the unlearner 'x' did not end within 0 seconds; give it more"):
        hangs()
    assert len(caught) == 2
    assert time.monotonic() - started < 10


def test_a_call_in_another_thread_is_interrupted_too():
    raised = []

    def hangs():
        try:
            with guarded(WHO, seconds=0.2):
                while True:
                    time.sleep(0.01)
        except TimedOut as error:
            raised.append(str(error))

    thread = threading.Thread(target=hangs)
    thread.start()
    thread.join(10)
    assert raised == ["the unlearner 'x' did not end within 0 seconds"]


def test_a_call_in_another_thread_that_ends_just_in_time_is_not_interrupted_afterwards(monkeypatch):
    ending, said = threading.Event(), []

    def late(thread, error):
        ending.set()
        time.sleep(0.2)
        raise_in(thread, error)

    def ends():
        try:
            with limited(0.01, "it took too long"):
                ending.wait(10)
            for _ in range(1000):
                time.sleep(0)
            said.append("ended")
        except TimedOut as error:
            said.append(str(error))

    monkeypatch.setattr(clock, "raise_in", late)
    thread = threading.Thread(target=ends)
    thread.start()
    thread.join(10)
    assert said == ["ended"]


@pytest.mark.parametrize("share", [0.9, 1.0, 1.1])
def test_an_interruption_is_always_in_words(share):
    said = []

    def spins():
        for _ in range(50):
            try:
                with limited(0.004, "it took too long"):
                    until = time.perf_counter() + share * 0.004
                    while time.perf_counter() < until:
                        pass
            except TimedOut as error:
                said.append(str(error))

    thread = threading.Thread(target=spins)
    thread.start()
    thread.join(60)
    assert set(said) <= {"it took too long"}


def test_somebody_elses_alarm_goes_on():
    import signal

    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with guarded(WHO, seconds=30):
            pass
        time.sleep(0.5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == [1]


def test_an_import_may_set_what_libraries_set_and_nothing_of_torch():
    with importing(WHO):
        os.environ["OF_A_PLUGIN"] = "1"
    assert os.environ.pop("OF_A_PLUGIN") == "1"
    with pytest.raises(ContractError, match="default dtype"), importing(WHO):
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() is torch.float32


def test_what_was_raised_goes_first_and_ends_of_tests_are_errors():
    def skips():
        with guarded(WHO):
            torch.set_default_dtype(torch.float64)
            pytest.skip("not today")

    with pytest.raises(PluginExit, match=r"pytest\.skip"):
        skips()
    assert torch.get_default_dtype() is torch.float32
