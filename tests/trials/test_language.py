"""The usual metrics of causal language models, on a model of four tokens whose probabilities are known."""

import math

import pytest
import torch
from torch import nn

from harness import ForgetRequest, Question, Reading
from harness.api import ContractError
from harness.conventions import predicted
from harness.tasks.causal_lm import CausalLM
from harness.training.data import Data
from harness.trials.checks import check_questions
from harness.trials.language import (
    distinct,
    extraction_likelihood,
    log_perplexity,
    memorisation_accuracy,
    verbatim,
    whole,
)
from harness.trials.metrics import Answers, answers, asked, readings
from harness.trials.questions import forget_quality, leakage, truth_ratio, truth_ratios
from unlearners._errors import error

#: A real task; only its model is replaced.
TASK = CausalLM(length=8, batch_size=2)


class Chances(nn.Module):
    """Continues every token by another with known probabilities, whatever came before; keeps the size of batches."""

    def __init__(self, *rows):
        super().__init__()
        self.table, self.sizes = torch.tensor(rows, dtype=torch.float64).log(), []

    def forward(self, tokens):
        self.sizes.append(len(tokens))
        return self.table[tokens]


def chances():
    return Chances([0.1, 0.6, 0.2, 0.1], [0.28, 0.24, 0.24, 0.24], [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1])


def documents(*given):
    return Data(*TASK.points(given))


def test_the_last_token_of_a_document_belongs_to_its_text():
    data = documents(([3, 0, 1], 1), ([0, 1, 2, 3], 3))
    found = whole(TASK, data).inputs
    assert found["tokens"][:, :5].tolist() == [[3, 0, 1, 0, 0], [0, 1, 2, 3, 0]]
    assert found["length"].tolist() == [3, 4]
    longest = documents((list(range(4)) * 2 + [1], 1))
    assert whole(TASK, longest).inputs["tokens"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 1]]


def test_memorisation_accuracy_counts_the_last_token():
    # 3 -> 0 and 0 -> 1 are the likeliest, 1 -> 2 is not: 2/3. 0 -> 2 is not.
    found = memorisation_accuracy(chances(), TASK, documents(([3, 0, 1, 2], 1), ([0, 2], 1)))
    assert found.value == pytest.approx((2 / 3 + 0) / 2)


def test_verbatim_by_hand():
    # Shown 3 0, it writes 1 0: both right. Shown the prompt 0 1 2, it writes 3. Shown 0 2, it writes 3 0 for 1 0.
    data = documents(([3, 0, 1, 0], 1), ([0, 1, 2, 3], 3), ([0, 2, 1, 0], 1))
    found = verbatim(chances(), TASK, whole(TASK, data))
    assert found.value == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert found.details["reproduced"] == pytest.approx(2 / 3)


def test_log_perplexity_by_hand():
    # Of the second document the last token alone is learned.
    found, classes = log_perplexity(chances(), TASK, documents(([3, 0, 1], 1), ([0, 1, 2, 3], 3), ([2, 2], 1)))
    assert classes.tolist() == [1, 3, 3]
    expected = -(math.log(0.7) + math.log(0.6) + math.log(0.4) + math.log(0.3)) / 4
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.details["perplexity"] == pytest.approx(math.exp(expected), rel=1e-6)


def test_what_is_learned_is_what_the_task_says():
    class Second(CausalLM):
        """Learns the second token of every text."""

        def targets(self, batch):
            targets = super().targets(batch)
            targets[:, 1:] = -100
            return targets

    found, _ = log_perplexity(chances(), Second(length=8, batch_size=2), documents(([3, 0, 1], 1), ([2, 2], 1)))
    assert found.value == pytest.approx(-(math.log(0.7) + math.log(0.3)) / 2, rel=1e-6)


#: The third differs from the first in its label alone, the fourth in what is given.
PLANTED = [([3, 0, 1, 0], 1), ([0, 2, 1, 0], 1), ([3, 0, 1, 1], 1), ([3, 0, 1, 0], 2)]


def test_texts_are_told_apart_by_all_that_they_are():
    assert distinct(documents(*PLANTED, *PLANTED[::-1])).tolist() == [0, 1, 2, 3]
    assert distinct(documents(PLANTED[1], *PLANTED)).tolist() == [0, 1, 3, 4]
    assert len(distinct(documents(*PLANTED).subset(torch.arange(0)))) == 0


def test_a_text_counts_once_however_often_it_was_planted():
    kept = documents(([0, 1, 2, 3], 1))
    once, often = (
        answers(chances(), TASK, documents(*of), kept, kept) for of in (PLANTED, [*PLANTED, *PLANTED[:1]] * 5)
    )
    assert once.told == often.told
    assert [len(once.forget), len(often.forget)] == [4, 25], "membership inference is of points"
    assert once.distinct.tolist() == often.distinct.tolist() == [0, 1, 2, 3]


def test_forget_quality_is_a_test_on_different_texts():
    random = torch.Generator().manual_seed(0)
    own, reference = torch.rand(2, 12, generator=random, dtype=torch.float64)
    copies = torch.arange(24) % 12
    doubled = Answers(
        own[copies], own, torch.zeros(12), 0.5, 0.5, {"verbatim": Reading(0.5)}, distinct=torch.arange(12)
    )
    found = readings([dict.fromkeys("PRU", doubled)] * 3, [[reference[copies]] * 3] * 3)
    assert found[0]["forget-quality"]["U"] == forget_quality(own, reference)
    assert found[0]["forget-quality"]["U"].value > forget_quality(own[copies], reference[copies]).value


def test_kept_texts_are_scored_once():
    class Counts(Chances):
        def forward(self, tokens):
            self.sizes += [len(tokens)] * (tokens.shape[1] == 7)  # the kept texts alone are so long
            return self.table[tokens]

    model = Counts(*chances().table.exp().tolist())
    kept, others = documents(*[([0, 1, 2, 3, 0, 1, 2, 3], 1)] * 5), documents(*PLANTED)
    found = answers(model, TASK, others, others, kept)
    assert sum(model.sizes) == len(kept)
    assert (found.told["perplexity"], found.retain_accuracy) == (log_perplexity(chances(), TASK, kept)[0], 1.0)


def test_shares_of_a_count_know_their_step():
    data = documents(([3, 0, 1, 2], 1), ([0, 2], 1))
    assert memorisation_accuracy(chances(), TASK, data).resolution == pytest.approx(0.5 * (1 / 3 + 1) / 2 / 2)
    # Two tokens of the first are to be written, one of the second.
    assert verbatim(chances(), TASK, whole(TASK, data)).resolution == pytest.approx(0.5 * (1 / 2 + 1) / 2 / 2)
    # Of one text: one token behind three that are shown, two behind two, three behind one.
    whole_text = whole(TASK, documents(([3, 0, 1, 2], 1)))
    expected = 0.5 * (1 + 1 / 2 + 1 / 3) / 3 / 3
    assert extraction_likelihood(chances(), TASK, whole_text, n=1).resolution == pytest.approx(expected)


def test_truth_ratios_by_hand():
    ask = [Question([3, 0], [1, 2], [[2, 3], [3, 0, 1]]), Question([0], [3], [[1]])]
    found = truth_ratios(chances(), TASK, ask)
    planted, first, second = (0.6 * 0.24) ** (1 / 2), (0.2 * 0.4) ** (1 / 2), (0.1 * 0.7 * 0.6) ** (1 / 3)
    assert found.tolist() == pytest.approx([(first + second) / 2 / planted, 0.6 / 0.1], rel=1e-6)
    assert len(truth_ratios(chances(), TASK, [Question([0], [1])])) == 0


def test_the_truth_ratio_is_one_if_all_answers_are_alike():
    found = truth_ratio(torch.tensor([0.5, 4.0], dtype=torch.float64))
    assert found.value == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert found.details["truth_ratio"] == pytest.approx(math.sqrt(2))
    assert truth_ratio(torch.ones(3)).value == 1
    assert "needs other answers" in truth_ratio(torch.empty(0)).unusable


def test_leakage_by_hand():
    # There is room for one token behind the prompt: it is 1 for uniform numbers between 0.1 and 0.7.
    numbers = torch.rand(1, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hits = int(((numbers > 0.1) & (numbers < 0.7)).sum())
    found = leakage(chances(), TASK, [Question([0], [1])], room=2)
    assert 10 < hits < 28
    assert found.value == pytest.approx(1 - math.comb(32 - hits, 8) / math.comb(32, 8))
    assert found.details["one_sample"] == hits / 32
    assert leakage(chances(), TASK, [Question([0], [1])], room=2, tries=1).value == pytest.approx(hits / 32)


def test_an_answer_leaks_wherever_it_stands():
    certain = Chances([0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0])
    ask = [Question([0], [2]), Question([0], [2, 0])]  # what is written is 1 2, and 1 2 0 1
    assert leakage(certain, TASK, ask, room=9).value == 1
    assert leakage(certain, TASK, ask, room=2).value == 0
    assert leakage(certain, TASK, [*ask, Question([0], [1, 1])], room=9).value == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="tries must lie between 1 and samples"):
        leakage(certain, TASK, ask, room=9, samples=4)


def test_forget_quality_by_hand():
    # Of the 20 ways to part six numbers into threes, two are as far apart.
    low, high = torch.tensor([1.0, 2, 3]), torch.tensor([4.0, 5, 6])
    found = forget_quality(low, high)
    assert found.value == pytest.approx(2 / 20)
    assert found.details == {"statistic": 1.0, "above_5_percent": 1.0}
    assert forget_quality(low, low).value == 1
    assert forget_quality(torch.arange(8.0), torch.arange(8.0) + 8).details["above_5_percent"] == 0
    assert math.isnan(forget_quality(torch.tensor([math.nan, 1]), high).value)


def test_no_more_texts_than_a_batch_are_scored_at_once():
    data, model = documents(*[([0, 1, 2, 3], 1)] * 9), chances()
    request = ForgetRequest(data, data, 1.0, torch.Generator(), torch.device("cpu"), TASK)
    asked(model, TASK, data)
    log_perplexity(model, TASK, data)
    memorisation_accuracy(model, TASK, data)
    verbatim(model, TASK, whole(TASK, data))
    leakage(model, TASK, [Question([0], [1])], room=9)
    truth_ratios(model, TASK, [Question([0], [1], [[2], [3], [0]])])
    assert predicted(TASK, model, data.batch(torch.arange(9))).tolist() == [3] * 9
    assert error(request, model, data) == 0  # 2 -> 3 is the likeliest: the labels are met
    assert max(model.sizes) == TASK.batch_size


@pytest.mark.parametrize(
    ("questions", "said"),
    [("none", "must return a list"), ([], "has no question"), ([Question([], [1])], "is empty"),
     ([Question([1], [1], [[]])], "is empty"), ([(1, 2)], "must return a list"),
     ([Question([1], [0.5])], "asks a float, 0.5; tokens must be integers"),
     ([Question([1], [1], [[-1]])], "asks an int, -1; tokens must be integers from 0 on"),
     ([Question([1], [1]), Question([1, 2], [3], [[4, 5, 6]])], "asks 5 tokens with their answer; a text of the ta")],
)  # fmt: skip
def test_questions_are_checked(questions, said):
    class Poison:
        id = "mine"

    with pytest.raises(ContractError, match=said):
        check_questions(Poison(), questions, room=4)
    fits = [Question([1, 2], [3], [[4, 5]])]
    assert check_questions(Poison(), fits, room=4) == fits
