"""The run folder: the one place where artefacts are found or made, set aside and found again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Generic, TypeVar

from voxfit.core.durability import remove_partial_files, sync_folder, sync_tree
from voxfit.core.errors import RecordError, UsageError, WorkspaceError
from voxfit.core.layout import Layout, part_of
from voxfit.core.progress import Listener
from voxfit.core.records import Made
from voxfit.running.locking import locked

AnyMade = TypeVar("AnyMade", bound=Made)


@dataclass(frozen=True)
class Artefact(Generic[AnyMade]):
    """Something that a run makes: a record of its own, or a folder whose record is written last.

    Attributes:
        path: of the file or folder.
        inputs: digest of all that determines it.
        record: its kind; the one that is there says what it was made from.
        manifest: name of the record in a folder; empty for a file.
        needs: what else must be in the folder.
        costly: what a user waited for, in words ("3d fold 0"); it is never set aside unasked. Empty for the rest.
    """

    path: Path
    inputs: str
    record: type[AnyMade]
    manifest: str = ""
    needs: tuple[str, ...] = ()
    costly: str = ""

    def place(self, path: Path | None = None) -> Path:
        """Where the record lies; `path` is another place of the artefact than its own."""
        path = path or self.path
        return path / self.manifest if self.manifest else path

    def is_finished(self) -> bool:
        """Whether one is there, of whatever inputs."""
        return self.place().exists()

    def find(self, path: Path | None = None) -> AnyMade | None:
        """The record of one of these inputs, where that is there; `path` is another place than its own.

        Raises:
            RecordError: its record is damaged.
        """
        path = path or self.path
        if not self.place(path).exists() or not all((path / name).exists() for name in self.needs):
            return None
        record = self.record.load(self.place(path))
        return record if record.inputs_digest == self.inputs else None

    def fits(self) -> bool:
        """Whether one of these inputs is there."""
        return self.find() is not None

    @property
    def part(self) -> Path:
        """Where it is made."""
        return part_of(self.path, self.inputs)


class RunFolder:
    """The artefacts of one run, each made when it is first wanted and found from then on.

    Args:
        root: the folder; made where it is missing.
        listener: hears of what is set aside and found again.
        restart: whether finished trainings that no longer fit may be set aside.

    Raises:
        WorkspaceError: it cannot be made or written.
    """

    def __init__(self, root: Path, listener: Listener | None = None, *, restart: bool = False) -> None:
        self.layout = Layout(root)
        self.listener = listener or Listener()
        self.restart = restart
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
        with locked(self.layout.root):
            remove_partial_files(self.layout.root)
            yield

    def obtain(self, artefact: Artefact[AnyMade], make: Callable[[Path], AnyMade]) -> AnyMade:
        """The record of an artefact: of the one that fits, here or among what was set aside; else it is made.

        Args:
            artefact: what is wanted.
            make: makes it, and returns its record. A folder is made aside, in the path that this is given; what an
                interrupted one left there is there again. It gets its name once it is on the disk.

        Raises:
            RecordError: a file is damaged; a damaged folder is made again, but for a training.
            UsageError: a finished training would have to be set aside.
            WorkspaceError: it cannot be written.
        """
        return self.obtain_all([artefact], lambda missing: [make(item.part) for item in missing])[0]

    def obtain_all(
        self, artefacts: Sequence[Artefact[AnyMade]], make: Callable[[Sequence[Artefact[AnyMade]]], list[AnyMade]]
    ) -> list[AnyMade]:
        """Several of one kind; `make` makes together those that are missing, as `obtain` has it."""
        found: dict[Path, AnyMade | None] = {item.path: self._find(item) for item in artefacts}
        if missing := [item for item in artefacts if found[item.path] is None]:
            self.ask_before_losing(missing)
            for item in missing:
                self._prepare(item)
            for item, made in zip(missing, make(missing), strict=True):
                found[item.path] = self._finish(item, made)
        return [record for record in found.values() if record is not None]

    def ask_before_losing(self, artefacts: Sequence[Artefact[AnyMade]]) -> None:
        """Let the user decide, where finished trainings would be set aside.

        Raises:
            UsageError: naming them, unless the user wants it.
        """
        lost = [item.costly for item in artefacts if item.costly and item.is_finished() and not item.fits()]
        if not lost or self.restart:
            return
        what = f"{self.layout.root}: {', '.join(lost)} {'is' if len(lost) == 1 else 'are'} trained with other settings."
        if not self.listener.confirm(f"{what} Set aside what is there, and train again?"):
            raise UsageError(
                f"{what} Nothing of that was touched. Ask for what was asked then (`voxfit status` shows it), choose "
                "another folder with -o, or add --restart: what is there is then kept under superseded/."
            )
        self.restart = True

    def set_aside(self, path: Path) -> None:
        """Move what no longer fits, where something is there, into `superseded/`; nothing is deleted."""
        if not path.exists():
            return
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        number = 0
        while (target := self.layout.superseded / f"{stamp}.{number}").exists():
            number += 1
        place = target / path.relative_to(self.layout.root)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)

    def _find(self, artefact: Artefact[AnyMade]) -> AnyMade | None:
        """The record of one that is there, or was set aside and is taken back."""
        record = None
        try:
            record = artefact.find()
        except RecordError as error:
            if not artefact.manifest or artefact.costly:
                raise
            self.listener.warn(f"{error} It is made again.")
        if record:
            return record
        relative = artefact.path.relative_to(self.layout.root)
        for old in sorted(self.layout.superseded.glob(f"*/{relative}"), reverse=True):
            with suppress(RecordError):
                record = artefact.find(old)
            if record is None:
                continue
            self.ask_before_losing([artefact])
            self.set_aside(artefact.path)
            artefact.path.parent.mkdir(parents=True, exist_ok=True)
            old.rename(artefact.path)
            self.listener.say(f"{relative} is found again: it was set aside, and fits what is asked for now.")
            return record
        return None

    def _prepare(self, artefact: Artefact[AnyMade]) -> None:
        if not artefact.manifest:
            return
        for other in artefact.path.parent.glob(f"{artefact.path.name}.part-*"):
            if other != artefact.part and not artefact.costly:
                shutil.rmtree(other)
        artefact.part.mkdir(parents=True, exist_ok=True)

    def _finish(self, artefact: Artefact[AnyMade], record: AnyMade) -> AnyMade:
        """Give a whole artefact its name."""
        record = record if record.inputs_digest else record.revised(inputs_digest=artefact.inputs)
        if not artefact.manifest:
            self.set_aside(artefact.path)
            record.save(artefact.path)
            return record
        record.save(artefact.part / artefact.manifest, durable=False)
        try:
            sync_tree(artefact.part)
            self.set_aside(artefact.path)
            artefact.part.rename(artefact.path)
        except OSError as error:
            raise WorkspaceError(
                f"{artefact.path}: cannot be written ({error.strerror}). Free space and run again."
            ) from error
        sync_folder(artefact.path.parent)
        return record
