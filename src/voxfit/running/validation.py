"""Cross-validation: every case predicted by the fold that did not see it, and scored on its own grid."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxfit.assessment.evaluation import evaluate_files
from voxfit.assessment.scores import Scores, summarize
from voxfit.assessment.selection import pairs as ensembles
from voxfit.core.durability import open_array, save_array
from voxfit.core.layout import CASCADE_INPUT, PROBABILITIES, ValidationLayout
from voxfit.core.parallel import Executor
from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.writing import write_label
from voxfit.inference.cascade import upsampled
from voxfit.inference.postprocessing import keep_largest_components, to_values
from voxfit.inference.predictor import NetworkInput, Prediction, Predictor
from voxfit.inference.torch_networks import load_network, torch_predictor
from voxfit.learning.sampling import Previous
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.settings import Settings
from voxfit.preprocessing.output_resampling import Computed, LazyOutput
from voxfit.preprocessing.reverting import revert_preprocessing
from voxfit.preprocessing.store import Store
from voxfit.running.artefacts import ValidationManifest, validation_artefact
from voxfit.running.experiment import TOLERANCE_MM, Experiment
from voxfit.running.run_folder import RunFolder

_WITHOUT_TTA = "without_tta"
"""Where label maps without test-time augmentation are until they are scored."""


@dataclass(frozen=True)
class OutOfFold:
    """What the networks of a configuration say of the cases that they were not trained on.

    Attributes:
        configuration: its name.
        scores: of all cases.
        scores_without_tta: the same without test-time augmentation.
        places: where the parts of each case are.
        classes: foreground classes.
    """

    configuration: ConfigurationName
    scores: Scores
    scores_without_tta: Scores
    places: Mapping[str, ValidationLayout]
    classes: int

    def probabilities(self, case: str) -> NDArray[np.float32]:
        """(output, z, y, x) on the prepared grid, where ensembles need them."""
        return _opened(self.places[case].probabilities(case), self.places[case]).astype(np.float32)

    def previous(self) -> Previous:
        """What the next stage of a cascade is trained on [T7]."""
        return Previous(lambda case: _opened(self.places[case].cascade_input(case), self.places[case]), self.classes)


def _opened(path: Path, place: ValidationLayout) -> NDArray[Any]:
    return open_array(path, f"Delete the folder {place.root}; `fit` makes it again.")


@dataclass(frozen=True)
class Validation:
    """What the cross-validations of a run have in common.

    Attributes:
        settings: how networks are built and predictions put together, and what is measured.
        dataset: images and ground truth.
        stores: the prepared cases of all configurations; which these are decides what is kept beside the label maps.
        device: where networks run.
        executor: where cases are scored.
        listener: hears of progress.
    """

    settings: Settings
    dataset: Dataset
    stores: Mapping[ConfigurationName, Store]
    device: str
    executor: Executor
    listener: Listener

    @property
    def plan(self) -> Plan:
        """Of the trainings."""
        return self.settings.plan

    def kept(self, name: ConfigurationName) -> list[str]:
        """What is kept beside the label maps of a configuration."""
        paired = any(name in pair for pair in ensembles([*self.stores]))
        return [PROBABILITIES] * paired + [CASCADE_INPUT] * (self.next_stage(name) is not None)

    def next_stage(self, name: ConfigurationName) -> ConfigurationName | None:
        """The configuration that goes on from this one, in a cascade."""
        return next((other for other in self.stores if self.plan.configurations[other].previous == name), None)

    def write(self, path: Path, indices: NDArray[np.integer[Any]], case: str, geometry: Geometry) -> None:
        """Write class indices as a label map of the dataset."""
        image = next(Path(item.images[0]) for item in self.dataset.cases if item.name == case)
        write_label(path, to_values(indices, self.plan.labels.values), geometry, like=image)

    def evaluate(self, folder: ValidationLayout, cases: Sequence[str], *, surface: bool = True) -> Scores:
        """Scores of the label maps in a folder."""
        chosen = set(cases)
        pairs = {
            case.name: (folder.label(case.name), Path(case.label or ""))
            for case in self.dataset.cases
            if case.name in chosen
        }
        labels = self.dataset.labels
        return evaluate_files(
            pairs,
            labels,
            tolerance_mm=TOLERANCE_MM,
            executor=self.executor,
            surface=surface,
            other_metrics=self.settings.recipe.metrics if surface else (),
        )


def cross_validate(
    run: RunFolder,
    experiment: Experiment,
    name: ConfigurationName,
    folds: Sequence[int],
    common: Validation,
    previous: Previous | None,
) -> OutOfFold:
    """Segmentations and scores of the cases that some folds of a configuration were not trained on.

    Args:
        run: keeps them.
        experiment: what determines them.
        name: of the configuration.
        folds: that are trained.
        common: what all cross-validations have in common.
        previous: what the stage before says of the cases, where there is one.
    """
    for path in run.layout.validations(name):
        if path not in [run.layout.validation(name, fold).root for fold in folds]:
            run.set_aside(path)  # of a training that no longer fits: its label maps would be taken for some of this
    for fold in folds:
        weights, cases = run.layout.fold(name, fold).weights, experiment.folds.validation[fold]
        artefact = validation_artefact(run.layout, experiment, name, fold, common.kept(name))
        run.obtain(artefact, partial(validate_fold, common, f"{name} fold {fold}", name, weights, cases, previous))
    parts = {fold: run.layout.validation(name, fold) for fold in folds}
    found = OutOfFold(
        configuration=name,
        scores=_joined([Scores.load(part.scores) for part in parts.values()], common.dataset),
        scores_without_tta=_joined([Scores.load(part.scores_without_tta) for part in parts.values()], common.dataset),
        places={case: part for fold, part in parts.items() for case in experiment.folds.validation[fold]},
        classes=experiment.plan.labels.count - 1,
    )
    found.scores.keep(run.layout.scores(name))
    found.scores_without_tta.keep(run.layout.scores_without_tta(name))
    return found


def validate_fold(
    common: Validation,
    title: str,
    name: ConfigurationName,
    weights: Path,
    cases: Sequence[str],
    previous: Previous | None,
    folder: Path,
) -> ValidationManifest:
    """Segment and score the cases that a network was not trained on; what an interrupted run segmented stays.

    Args:
        common: plan, dataset, prepared cases.
        title: for people, "3d fold 0".
        name: of the configuration.
        weights: of the network.
        cases: their names.
        previous: what the stage before says of the cases, where there is one.
        folder: gets label maps and scores, and beside them, on prepared grids, what ensembles and cascades need.
    """
    common.listener.stage(f"Cross-validating {title}")
    part, kept = ValidationLayout(folder), common.kept(name)
    plain = ValidationLayout(folder / _WITHOUT_TTA)
    for room in (*kept, _WITHOUT_TTA):
        (folder / room).mkdir(exist_ok=True)
    predictor: Predictor | None = None
    for index, case in enumerate(cases):
        if part.label(case).exists() and all((folder / room / f"{case}.npy").exists() for room in kept):
            continue
        if predictor is None:
            network = load_network(common.plan, name, weights)
            predictor = torch_predictor(common.plan, name, [network], common.device, also_without_tta=True)
        seen = np.asarray(common.stores[name].image(case))
        before = (previous.segmentation(case), previous.classes) if previous else (None, 0)
        _validate_case(common, name, case, predictor.source(NetworkInput(seen, *before)), part, plain)
        common.listener.progress(index + 1, len(cases))
    if not part.scores_without_tta.exists():  # a run that was killed from here on has no maps to score again
        common.evaluate(plain, cases, surface=False).save(part.scores_without_tta)
    shutil.rmtree(plain.root)
    common.evaluate(part, cases).save(part.scores)
    return ValidationManifest()


def _validate_case(
    common: Validation,
    name: ConfigurationName,
    case: str,
    said: Prediction,
    part: ValidationLayout,
    plain: ValidationLayout,
) -> None:
    """Segment one case, with and without mirroring; its own label file comes last and says that all is there."""
    plan, kept, placement = common.plan, common.kept(name), common.stores[name].placement(case)
    source: LazyOutput = said
    if kept:  # all that the network says is needed anyway
        values = said.whole()
        source, mirrored = Computed(values), Computed(values[: plan.labels.outputs])
        if PROBABILITIES in kept:
            save_array(part.probabilities(case), mirrored.values.astype(np.float16))
        if after := common.next_stage(name):
            shape = common.stores[after].placement(case).shape
            save_array(part.cascade_input(case), upsampled(mirrored, shape, plan, after))
    both = revert_preprocessing([(source, placement)], partial(_decide_both, plan=plan))
    for place, indices in zip((plain, part), np.divmod(both, plan.labels.count), strict=True):
        found = keep_largest_components(indices, plan.single_component_labels)
        common.write(place.label(case), found, case, placement.geometry)


def _decide_both(values: NDArray[np.float32], plan: Plan) -> NDArray[np.integer[Any]]:
    """Class indices with mirroring, plus (number of classes) x those without."""
    logits = plan.inference.average_over == "logits"
    mirrored, plain = (plan.labels.decide(half, logits=logits).astype(np.uint32) for half in np.split(values, 2))
    return mirrored + plan.labels.count * plain


def _joined(parts: Sequence[Scores], dataset: Dataset) -> Scores:
    """Scores of all folds as those of one."""
    by_name = {case.name: case for part in parts for case in part.cases}
    cases = [by_name[case.name] for case in dataset.cases if case.name in by_name]
    warnings = [warning for part in parts for warning in part.warnings]
    return summarize(cases, dataset.labels, TOLERANCE_MM, warnings=warnings)
