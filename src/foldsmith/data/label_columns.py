"""Which columns of a new competition's table hold the labels, and how: the task and the separator."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from foldsmith.data.sheets import LABEL_COLUMNS, PSEUDO, Sheet, zero_one_columns
from foldsmith.data.tables import SEPARATORS, find_separator

LOOKS = ("look", "look_group")  # columns that `foldsmith check-data --groups` adds: near-duplicates share one
APART = {*LOOKS, PSEUDO, "fold", "folds", "kfold", "split", "group"}  # never labels
FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?")
LIKE_LABELS = ("label", "target", "class", "diagnos", "breed", "species", "categor", "tags", "attribute")


def label_like(column: str) -> bool:
    """Whether label columns are often called so."""
    return any(word in column.lower() for word in LIKE_LABELS)


def find_labels(sheet: Sheet, id_column: str, sample: Sheet | None) -> tuple[dict[str, Any], list[str]]:
    """Task, label column and separator for the data section, and warnings where these are guesses.

    Args:
        sample: the sample submission: the columns that it wants are the labels'.
    """
    others = [column for column in sheet.columns if column != id_column]
    usable = [column for column in others if column.lower() not in APART] or others
    wanted = [column for column in usable if column in sample.columns] if sample else []
    classes = zero_one_columns(sheet, wanted or usable)
    if wanted and classes != wanted:
        classes = []
    if len(classes) > 1 and not any(label_like(column) for column in usable if column not in classes):
        rows = zip(*(sheet.column(each) for each in classes), strict=True)
        task = "multiclass" if all(sum(map(float, row)) == 1 for row in rows) else "multilabel"
        return ({"task": task} if classes == others else {"task": task, "label_column": classes}), []
    column, warnings = _label_column(sheet, wanted, usable)
    section, more = _task(sheet.column(column), column, sample)
    return section, warnings + more


def _label_column(sheet: Sheet, wanted: list[str], usable: list[str]) -> tuple[str, list[str]]:
    """The sample's column, else a usual name, else one like it, else the column of fewest different values."""
    usual = [column for column in usable if column.lower() in LABEL_COLUMNS]
    like = [column for column in usable if label_like(column)]
    column = (wanted or usual or like or [min(usable, key=lambda each: len(set(sheet.column(each))))])[0]
    if len(wanted) == 1 or len(usual) == 1:
        return column, []
    few = len(sheet.rows) / 2
    possible = [each for each in usable if each != column and (each in wanted or len(set(sheet.column(each))) <= few)]
    if not possible:
        return column, []
    return column, [f"labels are taken from the column {column!r}; also possible: {', '.join(possible)}"]


def _task(texts: list[str], column: str, sample: Sheet | None) -> tuple[dict[str, Any], list[str]]:
    """The task, and the separator of a multi-label one, by what the column holds."""
    separator = find_separator(texts)
    filled = [text.strip() for text in texts if text.strip()]
    several = [text for text in filled if len(_words(text, separator)) > 1]
    one = not several or _are_whole(filled, separator, sample)
    empty = len(texts) - len(filled)
    if one and not empty:
        warnings = []
        if 2 * len(set(filled)) > len(filled) and all(FRACTION.fullmatch(text) for text in filled):
            warnings.append(f"column {column!r} holds numbers with fractions, each of them a class: no regression here")
        if several:
            warnings.append(
                f"labels such as {several[0]!r} are taken whole, since no word of theirs is in another label; if they "
                f"are several labels: data.task: multilabel, data.label_separator: {separator!r}"
            )
        return {"task": "multiclass", "label_column": column}, warnings
    if one:
        if several:
            separator = next((mark for mark in (*SEPARATORS, "\t") if not any(mark in text for text in filled)), " ")
        warnings = [
            f"{empty} of {len(texts)} images have an empty label in column {column!r}, the others one each: the task "
            "is multilabel; if every image has exactly one label, fill or remove these rows and look again"
        ]
        return {"task": "multilabel", "label_column": column, "label_separator": separator}, warnings
    warnings = []
    usual = Counter(several).most_common(1)[0][0]
    if (
        (separator == " " or f"{separator} " in usual)
        and separator in " ,"
        and any(letter.isalpha() for letter in usual)
    ):
        warnings = [f"labels are split at {separator!r}; if {usual!r} is one label: data.task: multiclass"]
    return {"task": "multilabel", "label_column": column, "label_separator": separator}, warnings


def _words(text: str, separator: str) -> list[str]:
    return [word.strip() for word in text.split(separator) if word.strip()]


def _are_whole(texts: Sequence[str], separator: str, sample: Sheet | None) -> bool:
    """Whether texts of several words are one label each: there are few, and none has a word of another.

    Or the sample submission has a column for each of them. Numbers side by side are several labels.
    """
    whole = sorted(set(texts))
    if sample is not None and set(whole) <= set(sample.columns):
        return True
    words = Counter(word for text in whole for word in set(_words(text, separator)))
    is_text = all(any(letter.isalpha() for letter in word) for word in words)
    return is_text and 2 * len(whole) <= len(texts) and max(words.values()) == 1
