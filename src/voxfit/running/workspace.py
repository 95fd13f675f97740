"""The run folder: artefacts are built aside and renamed, older ones set aside, and one process writes at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from voxfit.core.durability import sweep, sync_folder, sync_tree
from voxfit.core.errors import WorkspaceError
from voxfit.running.locking import locked


class Workspace:
    """Paths and housekeeping of one run folder.

    Args:
        root: the folder; made where it is missing.

    Raises:
        WorkspaceError: it cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise WorkspaceError(
                f"{root}: cannot be written ({error.strerror}). Choose another folder with -o."
            ) from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing here, and remove what killed ones left half-written.

        Raises:
            WorkspaceError: another process holds it; the message names it.
        """
        with locked(self.root):
            sweep(self.root)
            yield

    @contextmanager
    def building(self, folder: Path, made_from: str) -> Iterator[Path]:
        """Build a folder artefact aside; it gets its name when the block ends without an error, once it is on the disk.

        What an interrupted block left is there again the next time, if it was made from the same.

        Args:
            folder: the artefact's final place.
            made_from: digest of what determines it.
        """
        part = folder.parent / f".{folder.name}.part-{made_from}"
        for other in folder.parent.glob(f".{folder.name}.part-*"):
            if other != part:
                shutil.rmtree(other)
        part.mkdir(parents=True, exist_ok=True)
        yield part
        try:
            sync_tree(part)
            self.set_aside(folder)
            part.rename(folder)
        except OSError as error:
            raise WorkspaceError(
                f"{folder}: cannot be written ({error.strerror}). Free space and run again."
            ) from error
        sync_folder(folder.parent)

    def set_aside(self, path: Path) -> Path | None:
        """Move an artefact that no longer fits into `superseded/`; nothing a user waited for is deleted."""
        if not path.exists():
            return None
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        relative = path.relative_to(self.root)
        number = 0
        while (target := self.root / "superseded" / f"{stamp}.{number}" / relative).exists():
            number += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        return target
