"""The section of pictures of the worst cases and a median one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxfit.assessment.report.findings import Findings, case_dice
from voxfit.assessment.report.markup import (
    Markup,
    element,
    fixed,
    join,
    paragraph,
)
from voxfit.assessment.report.overlays import overlay
from voxfit.assessment.scores import CaseScores, shape_problem
from voxfit.core.errors import DatasetError
from voxfit.imaging.volume import file_ending, read_image, read_label

_WORST = 5

_ORIENTED = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
"""Formats that say how the patient lies."""

_KINDS = {"reference": "outline of the reference", "predicted": "outline of the prediction"}


def show_pictures(findings: Findings, references: Mapping[str, tuple[Path, Path]]) -> Markup:
    """The section of pictures."""
    scored = [case for case in findings.cases if case_dice(case) is not None]
    if not scored:
        return paragraph("There are no cases with scores.")
    ranks = {rank: f"worst {rank + 1}" for rank in range(min(_WORST, len(scored)))}
    middle = (len(scored) - 1) // 2
    ranks[middle] = f"{ranks[middle]}, and the median" if middle in ranks else "median"
    keys = (
        element("span", element("span", class_=f"key {kind}"), what, class_="entry") for kind, what in _KINDS.items()
    )
    text = (
        "Left the whole slice, right the part around the structures (where that is smaller, a frame on the left marks "
        "it). Of each case the slice with the most wrongly labelled voxels is shown: most others look better. The grey "
        "values reach from the 1st to the 99th percentile of the slice; the plane and the letters are what the file's "
        "header says of the patient's position."
    )
    figures = element(
        "div", *(_case_figure(findings, references, scored[at], rank) for at, rank in ranks.items()), class_="cases"
    )
    return join(paragraph(text), element("p", *keys, class_="legend"), figures)


def _case_figure(
    findings: Findings, references: Mapping[str, tuple[Path, Path]], case: CaseScores, rank: str
) -> Markup:
    scores = ", ".join(f"{name} {fixed(item.dice)}" for name, item in case.labels.items())
    title = join(element("strong", case.name), f" ({rank}): Dice {fixed(case_dice(case))}")
    detail = f" ({scores})" if len(case.labels) > 1 else ""
    try:
        drawn, where = _case_pictures(findings, references, case.name, f"{case.name}, {rank}, Dice {scores}")
    except KeyError:
        return element("figure", paragraph("No image and reference were given."), element("figcaption", title, detail))
    except DatasetError as error:
        return element("figure", paragraph(f"Cannot be shown: {error}"), element("figcaption", title, detail))
    text = element("figcaption", title, detail, f"; {where}" if where else "")
    return element("figure", text, element("div", *drawn, class_="views"))


def _case_pictures(
    findings: Findings, references: Mapping[str, tuple[Path, Path]], name: str, description: str
) -> tuple[list[Markup], str]:
    """The pictures of a case, and which slice they show.

    Raises:
        KeyError: there is no reference.
        DatasetError: a file cannot be used, or they do not fit together.
    """
    image_path, label_path = references[name]
    image, maps = read_image(image_path), list[NDArray[np.int16]]()
    for path in (label_path, findings.segmentation(name)):
        label = read_label(path).array
        if label.shape != image.geometry.shape:
            raise DatasetError(shape_problem(str(path), image.geometry.shape, label.shape))
        maps.append(findings.plan.labels.to_indices(label)[0])
    return overlay(
        np.asarray(image.array[0], np.float32),
        maps[0],
        maps[1],
        image.geometry,
        findings.plan.labels.class_names,
        description,
        oriented=file_ending(image_path) in _ORIENTED,
    )
