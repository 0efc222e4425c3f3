"""The place of an archive, a folder or whatever else fsspec knows: files are put there whole, and stay."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from operations.errors import ArchiveError

PART: Final = ".part"
"""Ends the name of a file that is being written."""

_BLOCK_BYTES: Final = 1_048_576


class ArchivePlace:
    """Paths are relative to root; every method may raise ArchiveError, which names the place."""

    def __init__(self, root: str) -> None:
        self.root = root
        try:
            self._fs, self._path = fsspec.core.url_to_fs(root)
        except (ValueError, ImportError) as error:
            raise ArchiveError(f"{root}: {error}") from None

    def exists(self, path: str) -> bool:
        """Tell whether there is such a file."""
        with self._translated():
            return bool(self._fs.exists(self._full(path)))

    def matching(self, pattern: str) -> Sequence[str]:
        """Return the files that a pattern names, sorted."""
        with self._translated():
            found = sorted(self._fs.glob(self._full(pattern)))
        return [posixpath.relpath(one, self._path) for one in found]

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file to read."""
        with self._translated(), self._fs.open(self._full(path), "rb") as file:
            yield file

    def digest(self, path: str) -> tuple[str, int]:
        """Return SHA-256 and length of a file."""
        found, size = hashlib.sha256(), 0
        with self.reading(path) as file:
            while block := file.read(_BLOCK_BYTES):
                found.update(block)
                size += len(block)
        return found.hexdigest(), size

    def put(self, path: str, write: Callable[[Any], None]) -> tuple[str, int]:
        """Write a file beside its place and move it there whole; return SHA-256 and length of what was written."""
        folder = posixpath.dirname(path)
        part = f"{path}{PART}"
        with self._translated():
            self._fs.makedirs(self._full(folder), exist_ok=True)
            try:
                with self._fs.open(self._full(part), "wb") as file:
                    write(file)
                    self._file_to_disk(file)
                written = self.digest(part)
                self._fs.mv(self._full(part), self._full(path))
            except OSError:
                # On a full disk it only takes room; what cannot be removed now, the next run removes.
                with contextlib.suppress(OSError):
                    self._fs.rm_file(self._full(part))
                raise
            self._folders_to_disk(folder)
        return written

    def remove(self, path: str) -> None:
        """Remove a file."""
        with self._translated():
            self._fs.rm_file(self._full(path))

    def _full(self, path: str) -> str:
        return f"{self._path}/{path}" if path else str(self._path)

    def _file_to_disk(self, file: Any) -> None:
        """Let a local file survive a power cut; an object store does so by itself when it is closed."""
        if isinstance(self._fs, LocalFileSystem):
            file.flush()
            os.fsync(file.fileno())

    def _folders_to_disk(self, folder: str) -> None:
        """Let a local file's name survive it too, and those of folders that may be new."""
        if not isinstance(self._fs, LocalFileSystem):
            return
        while True:
            held = os.open(self._full(folder), os.O_RDONLY)
            try:
                os.fsync(held)
            finally:
                os.close(held)
            if not folder:
                return
            folder = posixpath.dirname(folder)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Such as a full disk, a place that is not mounted, or one that may not be written.
            raise ArchiveError(f"archive {self.root}: {error.strerror or type(error).__name__}") from error
