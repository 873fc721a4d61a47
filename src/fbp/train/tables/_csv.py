"""Reads tables from text: a line of names, and a line for each row."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fbp.train.tables._bytes import read_text
from fbp.train.tables._cell import plain_number
from fbp.train.tables._form import Form
from fbp.train.tables._read_columns import read_columns
from fbp.train.tables._table import InputError, Table

# Rows are turned into columns in parts of this many, since cells as Python objects are large.
PART = 4096
# The column of row numbers that R's and pandas' own exports have no name for.
UNNAMED = "unnamed"


TITLE = ": if a title stands above the line of names, take it out"


def read_csv(path: Path, forms: Mapping[str, Form]) -> Table:
    """Reads lines of cells between commas, semicolons, tabs or bars, the first one the names.

    Args:
      path: the file, in UTF-8, UTF-16 or Latin-1, perhaps compressed by gzip.
      forms: how to read the columns that are known.
    """
    content, encoding, said = read_text(path)
    first = content[:200_000].decode(encoding, errors="ignore").lstrip("\ufeff \t\r\n")
    unquoted = re.split("\r\n|\n|\r", re.sub('"[^"]*"', "", first), maxsplit=1)[0]
    delimiter = max(",;\t|", key=unquoted.count)
    text = io.TextIOWrapper(io.BytesIO(content), encoding=encoding, newline="")
    rows = _rows(path, csv.reader(text, delimiter=delimiter, strict=True))
    head, _ = next(rows, ([], 0))
    if not head:
        raise InputError(f"{path}: expected a line of column names and rows of data, got none")
    names = [name.strip() for name in head]
    if all(plain_number(name) is not None for name in names):
        raise InputError(f"{path}: expected the first line to name the columns, got only numbers")
    parts: list[list[str]] = []
    part: list[list[str]] = []
    lines: list[int] = []
    for row, line in rows:
        if not lines and len(row) == len(names) + 1 and row[-1].strip():
            # R's write.table leaves out the name of the row names altogether.
            names = ["", *names]
        if len(names) > 1 and _is_blank(row):
            continue
        # In a single column a blank line is a missing cell, so every line gets a prediction.
        row = row or [""]
        while len(row) > len(names) and not row[-1].strip():
            row.pop()  # delimiters at the end of a line
        if len(row) != len(names):
            title = TITLE if len(names) == 1 else ""
            raise InputError(
                f"{path}: expected {len(names)} cells in line {line}, got {len(row)}{title}"
            )
        part.append(row)
        lines.append(line)
        if len(part) == PART:
            parts.append(_joined(part))
            part = []
    if not lines:
        raise InputError(f"{path}: expected rows of data, got none")
    if part:
        parts.append(_joined(part))
    columns = ["\0".join(column) for column in zip(*parts, strict=True)]
    # Delimiters at the end of every line, and columns of which nothing is there.
    there = [i for i, name in enumerate(names) if name or columns[i].strip("\0")]
    names, columns = [names[i] for i in there], [columns[i] for i in there]
    written = dict(zip(_unique(path, names), columns, strict=True))
    return read_columns(str(path), written, np.array(lines), forms, said, delimiter)


def _rows(path: Path, reader: Any) -> Iterator[tuple[list[str], int]]:
    """Rows with the number of the last line of each, as an editor shows it; without blank lines at
    the start and at the end."""
    blank: list[int] = []
    started = False
    try:
        for row in reader:
            if _is_blank(row):
                blank += [reader.line_num] if started else []
                continue
            yield from (([], line) for line in blank)
            blank, started = [], True
            yield row, reader.line_num
    except csv.Error as error:
        raise InputError(
            f"{path}: expected CSV, got a file that breaks its rules: {error}, line "
            f"{reader.line_num}"
        ) from None


def _unique(path: Path, names: list[str]) -> list[str]:
    if names[0] == "" and UNNAMED not in names:
        names = [UNNAMED, *names[1:]]
    if len(set(names)) < len(names) or "" in names:
        twice = next(n for n in names if n == "" or names.count(n) > 1)
        raise InputError(
            f"{path}: expected one name a column, got {twice!r} more than once or empty"
            + (TITLE if sum(map(bool, names)) == 1 else "")
        )
    return names


def _joined(rows: list[list[str]]) -> list[str]:
    """Each column of some rows in one string, its cells without spaces around."""
    joined = []
    for column in zip(*rows, strict=True):
        cells = "\0".join(column)
        # To strip each cell takes as long as to read it, and few files need it.
        if any(character.isspace() for character in set(cells)):
            cells = "\0".join(cell.strip() for cell in column)
        joined.append(cells)
    return joined


def _is_blank(row: list[str]) -> bool:
    """Whether a line is empty: it has no text and no delimiter."""
    return not row or (len(row) == 1 and not row[0].strip())
