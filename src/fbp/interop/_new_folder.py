"""Makes a folder of files: whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fbp.interop._files import FolderError


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` when all is written and on the disk.

    If `folder` has files already, the new ones are moved among them; none is overwritten.

    Raises:
      FolderError: a file is there already, or the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
        try:
            yield partial
            _as_others_are_made(partial)
            for path in (partial, *partial.rglob("*")):
                flush(path)
            if folder.is_dir() and any(folder.iterdir()):
                _move_into(partial, folder)
                for path in (folder, *filter(Path.is_dir, folder.rglob("*"))):
                    flush(path)
            else:
                os.replace(partial, folder)
            flush(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise FolderError(f"{folder}: cannot be written: {error.strerror}") from None


def write_file(path: Path, content: bytes) -> None:
    """Writes a new file."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "xb") as file:
        file.write(content)


def flush(path: Path) -> None:
    """Waits until a file, or a folder's names, are on the disk, where the system can do so."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _as_others_are_made(folder: Path) -> None:
    """Gives a temporary folder the permissions of an ordinary one: only its owner may read it."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)


def _move_into(partial: Path, folder: Path) -> None:
    """Moves files; if a name is taken, none of them."""
    names = [path.relative_to(partial) for path in partial.rglob("*") if path.is_file()]
    names.sort(key=lambda name: (name.name == "config.json", name))  # the last: now it is whole
    done: list[Path] = []
    try:
        for name in names:
            there = folder / name
            there.parent.mkdir(exist_ok=True)
            # Renaming would overwrite a file. Creating it first fails if the name is taken.
            try:
                open(there, "xb").close()
            except FileExistsError:
                raise FolderError(
                    f"{there} is there already and is kept: choose another folder"
                ) from None
            done.append(there)
            os.replace(partial / name, there)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise
