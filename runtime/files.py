"""Files that others read while they are written anew."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def write_whole(file: Path, text: str, mode: int = 0o666) -> None:
    """Write a file so that whoever reads it finds the old text or the new one, never a part. `mode` as for `open`:
    less what the umask takes away."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, file)


@contextmanager
def whole_file(file: Path) -> Iterator[IO[str]]:
    """A text file to be written line by line, which is there whole or not at all: the old one stays until the end, or
    for good. What is no file, such as a pipe or a device, is written to as it is."""
    if file.exists() and not file.is_file():
        with file.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    file = file.resolve()  # behind a link it is the file that is replaced
    temporary = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
