"""Pictures, drawn by matplotlib without pyplot, which may need a display and keeps global state."""

import dataclasses
import io
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fbp._errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel: TypeAlias = Callable[["Axes"], None]

BLUE, ORANGE, GREY = "#2864a5", "#d9731a", "#8a8a8a"
FORMATS = ".png", ".svg"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture: a notebook shows it, `save` writes it.

    Attributes:
      figure: matplotlib's, to change what is not liked.
    """

    figure: Any

    def save(self, path: str | Path) -> None:
        """Writes a new .png or .svg file.

        Raises:
          InputError: the name ends in something else, is taken, or cannot be written.
        """
        path = require_new_picture(Path(path))
        made = self.bytes(path.suffix.lower()[1:])
        try:
            with path.open("xb") as file:
                file.write(made)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None

    def bytes(self, form: str = "png") -> bytes:
        """The picture as "png" or "svg"."""
        made = io.BytesIO()
        # matplotlib warns where its font lacks a character of a name: the picture is still usable.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.figure.savefig(made, format=form)
        return made.getvalue()

    def _repr_svg_(self) -> str:
        return self.bytes("svg").decode()


def require_new_picture(path: Path) -> Path:
    """The path of a picture to write, if it can be one.

    Raises:
      InputError: it ends in something else, or is taken.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(FORMATS)}")
    if os.path.lexists(path):
        raise InputError(f"{path} is there already and is kept: choose another name")
    return path


def side_by_side(
    title: str, panels: Sequence[Panel], size: tuple[float, float] = (4.6, 3.8), columns: int = 99
) -> Picture:
    """Panels of one size in inches, so many in a row.

    Raises:
      InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a picture needs matplotlib: pip install 'fbp[train]'") from None
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained", dpi=120)
        figure.suptitle(plain(title))
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, panel in zip(axes, panels, strict=False):
            panel(ax)
            ax.spines[["top", "right"]].set_visible(False)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
    return Picture(figure)


def plain(name: str) -> str:
    """A user's name as plain text: matplotlib reads text between two dollar signs as a formula."""
    return name.replace("$", r"\$")
