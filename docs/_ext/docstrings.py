"""Docstrings as reStructuredText: indented blocks stay as they are, text is taken literally.

The docstrings of fbp are written to be read in a terminal. Here an equation is an indented block,
`name` is code, and `*` or `_` mean nothing more.
"""

import re

# Sections that napoleon makes lists of.
_SECTIONS = re.compile(r"(Args|Attributes|Raises|Returns|Warns|Yields):$")
_ITEM = re.compile(r"(  (?! )[^:`]+:)(.*)")
_CODE = re.compile(r"(`[^`]+`)")
_MARKUP = re.compile(r"([\\*_|])")
# A sentence that begins like an item of a list: "f. It keeps the shape of x."
_LETTER = re.compile(r"( ?\(?(?:[A-Za-z]|[ivxlcdm]+|[IVXLCDM]+))([.)](?: |$))")


def to_rst(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring, of which the indentation is removed, for napoleon."""
    made: list[str] = []
    text = in_code = in_section = False
    number = 0
    while number < len(lines):
        line = lines[number].rstrip()
        number += 1
        if not line:
            text = False
        elif not line.startswith(" "):
            in_code = False
            in_section = _SECTIONS.match(line) is not None
            # Text in backticks may go on in the next line.
            while line.count("`") % 2 and number < len(lines) and lines[number].strip():
                line = f"{line} {lines[number].strip()}"
                number += 1
            line = line if in_section else _bullet(line)
            text = True
        elif in_section:
            while line.count("`") % 2 and number < len(lines) and lines[number].strip():
                line = f"{line} {lines[number].strip()}"
                number += 1
            # napoleon escapes the stars of the first name itself.
            item = _ITEM.fullmatch(line)
            name = item[1].replace(", **", r", \*\*") if item else ""
            line = name + inline(item[2]) if item else _indented(line)
        elif text and not in_code:
            line = _indented(line)  # goes on with an item of a list
        elif not in_code:
            made += ["::", ""]
            in_code = True
        made.append(line)
    return made


def inline(text: str) -> str:
    """Returns a line with its code marked, and with all else meaning itself."""
    if start := _LETTER.match(text):
        return f"{start[1]}\\{start[2]}{inline(text[start.end() :])}"
    parts = _CODE.split(text)
    # Code is every second part. It ends before a letter, as in `Layer`s, only with this mark.
    return "".join(
        f"``{part[1:-1]}``" + r"\ " * after[:1].isalnum() if number % 2 else _escaped(part)
        for number, (part, after) in enumerate(zip(parts, [*parts[1:], ""], strict=True))
    )


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", text)


def _bullet(line: str) -> str:
    return f"* {inline(line[2:])}" if line.startswith("* ") else inline(line)


def _indented(line: str) -> str:
    text = line.lstrip()
    return line[: len(line) - len(text)] + _bullet(text)
