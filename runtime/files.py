"""Small files that other processes read."""

import os
from pathlib import Path


def write_whole(file: Path, text: str, mode: int = 0o666) -> None:
    """Write a file so that whoever reads it finds the old text or the new one, never a part. `mode` as for `open`:
    less what the umask takes away."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, file)
