"""One page about a finished run: what was measured, what was chosen and why, how it fails, and what that does not show.

The page is a single HTML file without scripts that loads nothing. `findings` collects what the run folder holds;
`results`, `pictures`, `settings`, `trainings` and `caveats` make the sections; `charts` and `overlays` draw. What is
missing is said on the page, not raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from voxfit.assessment.report.caveats import show_caveats
from voxfit.assessment.report.findings import read_run
from voxfit.assessment.report.page import make_page
from voxfit.assessment.report.pictures import show_pictures
from voxfit.assessment.report.results import show_cases, show_choice, show_result, show_spread, show_volumes
from voxfit.assessment.report.settings import show_dataset, show_plan
from voxfit.assessment.report.trainings import show_training
from voxfit.core.records import write_atomically

__all__ = ["write_report"]


def write_report(run: Path, path: Path, references: Mapping[str, tuple[Path, Path]]) -> None:
    """Write the report of a run as one self-contained HTML file.

    Args:
        run: a run folder with a plan; everything else may be missing or unfinished.
        path: of the page.
        references: image file (the first channel is shown) and label file of the cases, by name; cases without are
            scored but not shown.

    Raises:
        WorkspaceError: `run` is no run folder, or the page cannot be written.
        RecordError: the plan cannot be read.
    """
    findings = read_run(run)
    sections = {
        "Result": show_result(findings),
        "Dataset": show_dataset(findings),
        "Choice of the model": show_choice(findings),
        "Spread over the cases": show_spread(findings),
        "The worst cases, and a median one": show_pictures(findings, references),
        "Volumes": show_volumes(findings),
        "Training": show_training(findings),
        "All cases": show_cases(findings),
        "Plan": show_plan(findings),
        "What these numbers do not show": show_caveats(findings),
    }
    write_atomically(path, make_page(findings.plan.dataset, sections).encode())
