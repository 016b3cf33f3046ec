"""A search for settings: on seeds of its own, shared by processes, and nothing that was tried is tried again."""

import json
import os
import re
import signal

import pytest
from doses import POISONS, TINY, Fails, opened, search

from conftest import ROOT
from harness import registry
from harness.api import UnlearningError
from harness.judging.plan import LOOKS
from harness.store.artefacts import Busy
from harness.store.inventory import Criteria, Inventory, removable
from harness.studies.fronts import UNKNOWN, choose, finalists
from harness.studies.searches import mend
from harness.studies.tuning import FINAL_SEEDS, TUNING_SEEDS, Stopped, Tuning


@pytest.fixture
def lab(tmp_path):
    return opened(tmp_path / "store")


def settings_of(lab, settings, spec="doses:Dose"):
    """The settings that a search tries, as far as it goes before it measures any again."""
    tuning = Tuning(registry.resolve("unlearner", spec), TINY, POISONS, lab, settings)
    return [tuning.step() for _ in range(settings)]


def plain(tried):
    """A setting as it was tried, without times."""
    return tried.number, tried.setting.id, [dict(each) for each in tried.history], tried.seeds, tried.given_up


def test_what_is_chosen_is_chosen_among_the_finalists_on_their_own_seeds(lab):
    tuned, seen = search(lab, 10)
    assert [each.number for each in seen if not each.final] == list(range(10))
    again = [each for each in seen if each.final]
    complete = [each for each in tuned.tried if not each.given_up]
    assert [e.number for e in again] == [e.number for e in finalists(complete, 10, tuned.margin, tuned.budget)]
    assert (tuned.chosen, tuned.rule) == choose(tuned.finals, tuned.margin, tuned.budget)
    assert tuned.chosen.final
    assert tuned.chosen.setting.fields["share"] in (0.2, 0.5)  # the others spend too much or are refused
    assert all(len(each.history) == len(TUNING_SEEDS) for each in complete)


def test_it_begins_with_the_setting_it_is_given(lab):
    (first,) = settings_of(lab, 1, "doses:Dose:lr=0.3,share=0.2,passes=2,fixed=1.5")
    assert dict(first.setting.fields) == {"lr": 0.3, "share": 0.2, "passes": 2, "fixed": 1.5}


def test_fields_without_a_search_stay_and_others_stay_inside(lab):
    every = settings_of(lab, 12)
    for tried in every:
        fields = tried.setting.fields
        assert fields["fixed"] == 3.0
        assert 1e-3 <= fields["lr"] <= 1.0
        assert fields["share"] in (0.2, 0.5, 0.8, 0.95)
        assert fields["passes"] in (1, 2)
        assert float(f"{fields['lr']:.3g}") == fields["lr"]
    assert len({tried.setting.fields["lr"] for tried in every}) > 8


def test_no_seed_of_an_audit_is_seen_and_the_choice_is_made_on_fresh_ones(lab):
    search(lab, 2)
    records = [json.loads(path.read_text())["record"] for path in lab.store.root.glob("records/*/*.json")]
    of_trials = [record["made"]["trial"] for record in records if record["kind"] != "data"]  # these are the task's
    seeds = {int(trial.rpartition("seed")[2]) for trial in of_trials}
    assert seeds == {*TUNING_SEEDS, *FINAL_SEEDS}
    assert not set(TUNING_SEEDS) & set(FINAL_SEEDS)
    assert min(seeds) > 100 > LOOKS[-1]


def test_the_same_search_again_tries_nothing_and_shows_the_same(lab, tmp_path):
    first, _ = search(lab, 4)
    made = len(list(lab.store.root.glob("records/*/*.json")))
    again, seen = search(opened(tmp_path / "store"), 4)
    assert seen == []
    assert again == first
    assert len(list(lab.store.root.glob("records/*/*.json"))) == made


def test_a_longer_search_goes_on_from_a_shorter_one(lab, tmp_path):
    short, _ = search(lab, 3)
    longer, seen = search(lab, 6)
    assert [each.number for each in seen if not each.final] == [3, 4, 5]
    whole = settings_of(opened(tmp_path / "other"), 6)
    assert list(map(plain, longer.tried)) == list(map(plain, whole))
    again, seen = search(lab, 3)
    assert (again, seen) == (short, [])


@pytest.mark.parametrize("other", ["spec", "budget"])
def test_what_a_search_depends_on_begins_another(lab, tmp_path, other):
    settings_of(lab, 1)
    spec = "doses:Dose" + ":fixed=4" * (other == "spec")
    (again,) = settings_of(opened(tmp_path / "store", budget=0.3 if other == "budget" else 0.2), 1, spec)
    assert again.number == 0
    assert len(list(lab.store.root.glob("searches/*.jsonl"))) == 2


# ---- what is given up


def test_what_is_far_from_the_front_is_given_up_early(tmp_path):
    tuned, _ = search(opened(tmp_path / "store", budget=1.0), 8, "doses:Kinds")
    kinds = {}
    for tried in tuned.tried:
        kinds.setdefault(tried.setting.fields["kind"], []).append(tried)
    assert all(not each.given_up for each in kinds["fresh"])
    assert {each.given_up for each in kinds["nothing"]} == {"far from the front after 1 seed"}  # one leaves nothing
    assert {each.given_up for each in kinds["wrecked"]} == {"far from the front after 1 seed"}  # no accuracy
    (why,) = {each.given_up for each in kinds["unfinished"]}
    assert re.fullmatch(r"RuntimeError: it is not finished \(.*doses\.py:\d+\)", why)
    assert tuned.chosen.setting.fields["kind"] == "fresh"


def test_what_spends_too_much_is_given_up_at_once(lab):
    tuned, (first, *_) = search(lab, 4, "doses:Dose:share=0.8")
    assert (first.given_up, len(first.history)) == ("beyond the budget (examples)", 1)
    assert tuned.chosen.setting.fields["share"] in (0.2, 0.5)


def test_cpu_time_counts_as_in_an_audit(lab):
    tuned, _ = search(lab, 3, "doses:Dear:way=slow")
    ways = {}
    for tried in tuned.tried:
        ways.setdefault(tried.setting.fields["way"], []).append(tried)
    assert not any(each.given_up for each in ways["slow"])  # it is judged once all seeds are there
    assert all("cpu_seconds" in each.score.shares for each in ways["slow"])
    assert {each.setting.fields["way"] for each in tuned.finals} == {"lean"}
    assert tuned.chosen.setting.fields["way"] == "lean"


def test_a_method_that_refuses_everything_is_said_to(lab):
    with pytest.raises(UnlearningError, match="each of them raised an error or was given up"):
        search(lab, 1, "doses:Dose:share=0.95")


def test_a_method_without_fields_to_search_is_said_to(lab):
    with pytest.raises(UnlearningError, match="has a range to search"):
        search(lab, 1, "identity")


def test_what_any_method_has_to_beat_is_tuned_like_one(lab):
    tuned, _ = search(lab, 4, "short")
    assert tuned.chosen.setting.name == "short"
    first, *others = [tried.setting.fields for tried in tuned.tried]
    assert first == {"lr": pytest.approx(0.0309), "batch_size": 32, "optimizer": "recipe", "epochs": None}
    assert any(each["batch_size"] != 32 or each["optimizer"] != "recipe" for each in others)


# ---- processes

PROCESS = """
import sys
from harness import registry
from doses import opened, search
_, seen = search(opened(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
print("\\n".join(f"{'final' if each.final else 'setting'} {each.number}" for each in seen))
"""


@pytest.fixture
def start(forks, tmp_path):
    """Starts a process that searches; what it prints goes to a file of this number."""

    def start(number, settings, spec="doses:Dose", **environment):
        told = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "studies"), **environment}
        with open(tmp_path / f"{number}.txt", "wb") as output:
            words = ["-c", PROCESS, str(tmp_path / "store"), str(settings), spec]
            return forks.start(words, ROOT / "tests", told, output.fileno())

    return start


def test_a_killed_search_goes_on_where_it_was(tmp_path, start):
    (tmp_path / "calls").write_text("")
    assert start(0, 5, DIE_AFTER=str(tmp_path / "calls")).wait(300) == -signal.SIGKILL
    lab = opened(tmp_path / "store")
    begun = [path.read_text().count('"setting ') for path in lab.store.root.glob("searches/*.jsonl")]
    assert 1 <= begun[0] < 5
    tuned, seen = search(lab, 5)
    assert [each.number for each in seen if not each.final] == list(range(begun[0], 5))
    assert list(map(plain, tuned.tried)) == list(map(plain, settings_of(opened(tmp_path / "other"), 5)))


def test_a_setting_that_kills_its_process_is_given_up_at_the_third_attempt(tmp_path, start):
    for number in range(2):
        assert start(number, 2, spec="doses:Dose:fixed=9").wait(300) == -signal.SIGKILL
    tuning = Tuning(registry.resolve("unlearner", "doses:Dose:fixed=9"), TINY, POISONS, opened(tmp_path / "store"), 2)
    first = tuning.step()
    assert (first.number, first.history) == (0, [])
    assert first.given_up == "its process died, or time, memory or disk did not suffice, 2 times"
    assert tuning.step().number == 1


def test_what_another_process_finishes_meanwhile_is_not_taken_up_again(lab, tmp_path):
    tunings = [
        Tuning(registry.resolve("unlearner", "doses:Dose"), TINY, POISONS, each, 1)
        for each in (lab, opened(tmp_path / "store"))
    ]
    for what in ("setting", "final"):
        slow, quick = tunings
        claim, take = quick._claim(), slow._journal.take

        def late(*of, claim=claim, take=take, quick=quick):
            """The other process ends between this one's look at the journal and its lock."""
            with claim.lock:
                quick._write(claim, quick._measure(claim))
            return take(*of)

        slow._journal.take = late
        assert claim.what == what
        with pytest.raises(Busy):
            slow._claim()
        slow._journal.take = take
    assert slow.step() is None
    assert slow.result() == quick.result()


@pytest.mark.parametrize(("kind", "raised"), [("disk", Stopped), ("memory", Stopped), ("ctrl-c", KeyboardInterrupt)])
def test_what_may_pass_says_nothing_of_a_setting(tmp_path, kind, raised):
    def again():
        method = registry.resolve("unlearner", f"doses:Fails:kind={kind}")
        return Tuning(method, TINY, POISONS, opened(tmp_path / "store"), 1)

    Fails.asked.clear()
    first = again()
    with pytest.raises(raised):
        first.step()
    if raised is Stopped:
        with pytest.raises(Stopped, match=r"the search stopped at doses:Fails.*(No space left|allocate)"):
            first.step()  # and does not use up the attempts
    with pytest.raises(raised):
        again().step()
    if raised is Stopped:
        assert "2 times" in again().step().given_up
    else:
        Fails.asked[0.1] = -100
        assert not again().step().given_up


def test_of_a_setting_that_raises_late_the_sampler_learns_nothing_good(lab):
    Fails.asked.clear()
    tuning = Tuning(registry.resolve("unlearner", "doses:Fails:kind=own"), TINY, POISONS, lab, 1)
    tried = tuning.step()
    assert tried.given_up.startswith("ValueError: no")
    assert 0 < len(tried.history) < 5
    assert tuning._journal.settings()[0].values == [UNKNOWN, 1.0]


def test_a_kill_before_the_first_setting_does_not_try_it_twice(lab):
    tuning = Tuning(registry.resolve("unlearner", "doses:Dose"), TINY, POISONS, lab, 3)
    at = {"lr": 0.1, "share": 0.5, "passes": 1}
    tuning._journal._study.enqueue_trial(at)  # and here it was killed
    claims = [tuning._claim() for _ in range(3)]  # each holds its lock
    settings = [claim.setting for claim in claims]
    assert settings[0].fields["lr"] == 0.1
    assert len(set(settings)) == 3


def test_several_processes_share_a_search(tmp_path, start):
    processes = [start(number, 8) for number in range(2)]
    assert [process.wait(300) for process in processes] == [0, 0]
    said = [(tmp_path / f"{number}.txt").read_text().splitlines() for number in range(2)]
    assert all(said)
    tuned, seen = search(opened(tmp_path / "store"), 8)
    assert seen == []
    done = [f"setting {each.number}" for each in tuned.tried] + [f"final {each.number}" for each in tuned.finals]
    assert sorted([*said[0], *said[1]]) == sorted(done)  # each by one of them


def test_a_journal_that_was_cut_off_is_mended(lab, tmp_path):
    settings_of(lab, 2)
    (journal,) = lab.store.root.glob("searches/*.jsonl")
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker_id"')
    tuning = Tuning(registry.resolve("unlearner", "doses:Dose"), TINY, POISONS, opened(tmp_path / "store"), 3)
    assert tuning.step().number == 2
    mend(journal)
    assert journal.read_bytes().startswith(whole)
    journal.write_bytes(b"{")
    mend(journal)
    assert journal.read_bytes() == b""


def test_a_store_knows_its_journals_and_removes_old_ones(lab):
    settings_of(lab, 1)
    inventory = Inventory.of(lab.store.files)
    (journal,) = inventory.searches
    assert inventory.foreign == []
    young = removable(inventory, Criteria(1, True, True, True, True), journal.written)
    assert all(journal not in entries for entries in young.values())
    assert journal in removable(inventory, Criteria(older_than=1), journal.written + 86401)["old"]


def test_a_search_needs_a_store_that_can_be_written(lab):
    lab.store.files.refusal = "the store cannot be written"
    with pytest.raises(UnlearningError, match="a search is written down, and the store cannot be written"):
        search(lab, 1)
