"""What causal-lm reads: texts, pairs of a prompt and its answer, or conversations, as documents of tokens."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import UnlearningError
from harness.tasks import _factbook
from harness.tasks._hub import is_path, missing

FACTBOOK = "factbook"
#: Columns that are read, the first that the data have: conversations, pairs, texts.
COLUMNS = (("messages",), ("prompt", "completion"), ("text",))
#: Readers of `datasets`, by the suffix of a file.
READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text", ".parquet": "parquet"}
#: One row in so many is for testing where the data have no split "test".
HELD_OUT = 10


class Document(NamedTuple):
    """One text, as tokens.

    Attributes:
        tokens: All of its tokens, at least two.
        start: How many of them are given and not learned, such as those of a prompt; at least 1.
    """

    tokens: list[int]
    start: int = 1


def rows_of(data: str, folder: Path | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows to train and to test on, in the order of the data.

    Args:
        data: ``factbook``; a file or a folder, in ``folder`` or as a path; or a name on the hub.
        folder: A directory of data sets, or None.

    Raises:
        UnlearningError: They cannot be had.
    """
    if data == FACTBOOK:
        train, test = ([{"text": text} for text in part] for part in _factbook.documents(_factbook.CHAPTERS))
        return train, test
    train, test = _read(data, folder)
    if not test:
        train, test = [row for at, row in enumerate(train) if (at + 1) % HELD_OUT], train[HELD_OUT - 1 :: HELD_OUT]
    if not train or not test:
        raise UnlearningError(f"data={data} has too few rows; causal-lm needs a split 'train' of at least {HELD_OUT}")
    return train, test


def _read(data: str, folder: Path | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of the splits "train" and "test", each empty if there is none."""
    try:
        import datasets
    except ImportError:
        raise missing("datasets") from None
    places = [Path(data)] if folder is None else [folder / data, Path(data)]
    path = next((each for each in places if each.exists()), None)
    if path is None and (is_path(data) or Path(data).suffix in READERS):  # the hub would be asked for half a minute
        said = " and no ".join(str(each.absolute()) for each in places)
        raise UnlearningError(f"data={data} is not there: there is no {said}")
    if path is not None and path.is_file() and path.suffix not in READERS:
        kinds = ", ".join(READERS)
        raise UnlearningError(f"data={data} is of an unknown kind; causal-lm reads files that end in {kinds}")
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would say is in the error
    datasets.disable_progress_bars()  # they would break what the terminal shows of the run
    try:
        found = _splits(data, path)
        train, test = (list(found[name]) if name in found else [] for name in ("train", "test"))
    except Exception as error:  # no network, no such name, a damaged file: each raises something of its own
        advice = "; give a file or a folder, or a network to the hub" if path is None else ""
        raise UnlearningError(f"data={data} cannot be read ({_cause(error)}){advice}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)
    return train, test


def _splits(data: str, path: Path | None) -> Any:
    """Return splits by name: those at a path, or on the hub."""
    import datasets

    if path is None:
        return datasets.load_dataset(data)
    if path.is_file():
        return datasets.load_dataset(READERS[path.suffix], data_files={"train": str(path)})
    if (path / "dataset_dict.json").exists():
        return datasets.load_from_disk(str(path))
    if (path / "state.json").exists():
        return {"train": datasets.load_from_disk(str(path))}
    return datasets.load_dataset(str(path))


def _cause(error: BaseException) -> str:
    """Return the first line of what an error says, or of what `datasets` raised it from."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, StopIteration):  # raised for a file without rows, and says nothing
        return "it has no rows"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not in UTF-8: {error}"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}".rstrip(": ")


def documents(rows: Sequence[dict[str, Any]], tokenizer: Any, data: str) -> list[Document]:
    """Return the documents of rows; those of fewer than two tokens are left out.

    A conversation is written by the tokenizer's chat template, and its last turn is learned. So is a pair if there is
    a template; else the answer, and the token that ends a text, stand behind the prompt. Of a text all is learned.

    Raises:
        UnlearningError: The rows have none of the columns, or hold something else there, or there is no chat template.
    """
    columns = next((names for names in COLUMNS if rows and set(names) <= rows[0].keys()), None)
    if columns is None:
        wanted = ", or ".join(" and ".join(map(repr, names)) for names in COLUMNS)
        raise UnlearningError(f"data={data} has the columns {', '.join(map(repr, rows[0]))}; it must have {wanted}")
    _check(rows, columns, data)
    if columns == ("text",):
        texts = [row["text"] or "" for row in rows]
        # One call for all texts is far faster than one for each.
        found = [Document(list(tokens)) for tokens in tokenizer(texts)["input_ids"]]
    elif tokenizer.chat_template:
        found = [_told(_turns(row, columns), tokenizer) for row in rows]
    elif columns == ("messages",):
        raise UnlearningError(f"data={data} holds conversations, but the model's tokenizer has no chat template")
    else:
        found = [_answered(row["prompt"], row["completion"], tokenizer) for row in rows]
    return [each for each in found if len(each.tokens) > max(1, each.start)]


def _check(rows: Sequence[dict[str, Any]], columns: tuple[str, ...], data: str) -> None:
    """Raise a sentence on the first row that holds something else than is read; a text may be missing."""
    for row in rows:
        for name in columns:
            value = row[name]
            if name == "messages":
                right, wanted = _is_conversation(value), "a list of turns, each with a text as 'role' and as 'content'"
            else:
                right, wanted = isinstance(value, str) or (value is None and name == "text"), "a text"
            if not right:
                raise UnlearningError(f"data={data} has a row whose {name!r} is {reprlib.repr(value)}, not {wanted}")


def _is_conversation(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        return False
    return all(isinstance(turn.get(name), str) for turn in value for name in ("role", "content"))


def _turns(row: dict[str, Any], columns: tuple[str, ...]) -> list[dict[str, str]]:
    if columns == ("messages",):
        return list(row["messages"])
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]


def _told(turns: list[dict[str, str]], tokenizer: Any) -> Document:
    """Return a conversation whose last turn is learned."""
    given = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    before, all_of_it = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (given, whole))
    return Document(list(all_of_it), max(1, len(before)))


def _answered(prompt: str, answer: str, tokenizer: Any) -> Document:
    before = list(tokenizer(prompt)["input_ids"])
    behind = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return Document([*before, *behind, *end], max(1, len(before)))


def packed(found: Sequence[Document], length: int, end: int | None) -> list[Document]:
    """Return texts one behind the other, with the token that ends a text between them, in pieces of one length.

    Args:
        found: The texts.
        length: Tokens of a piece.
        end: The token; None if the tokenizer has none.

    Raises:
        UnlearningError: They have prompts, or are too short for two pieces.
    """
    if any(each.start > 1 for each in found):
        raise UnlearningError("packing is for texts; pairs and conversations are learned one by one: set packing=false")
    behind = [] if end is None else [end]
    stream = [token for each in found for token in (*each.tokens, *behind)]
    pieces = [Document(stream[at : at + length]) for at in range(0, len(stream) - length + 1, length)]
    if len(pieces) < 2:
        raise UnlearningError(
            f"the texts have {len(stream)} tokens in all, too few for pieces of {length}; lower length"
        )
    return pieces


def cut(document: Document, length: int) -> Document:
    """Return at most so many tokens: the first of a text; of an answer with its prompt the last."""
    extra = max(0, len(document.tokens) - length)
    if document.start == 1:
        return Document(document.tokens[:length])
    return Document(document.tokens[extra:], max(1, document.start - extra))
