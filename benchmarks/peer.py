"""nnU-Net v2 at work: it plans, prepares, trains a little and predicts, in folders of its own.

All that is expensive is kept in the workspace, so that a second run finds it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

TRAINER = "nnUNetTrainer"
_VARIABLES = {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "false", "nnUNet_def_n_proc": "2"}

Edit = Callable[[dict[str, Any]], None]
"""Changes plans in place."""


@dataclass(frozen=True)
class Trained:
    """A results folder.

    Attributes:
        workspace: has the three folders of nnU-Net.
        dataset: "Dataset004_Hippocampus".
        plans: "nnUNetPlans".
        configuration: "3d_fullres".
    """

    workspace: Workspace
    dataset: str
    plans: str
    configuration: str

    @property
    def folder(self) -> Path:
        """Where nnU-Net puts folds and plans."""
        return self.workspace.results / self.dataset / f"{TRAINER}__{self.plans}__{self.configuration}"


@dataclass(frozen=True)
class Workspace:
    """nnU-Net's three folders below `root`."""

    root: Path

    @property
    def raw(self) -> Path:
        """Datasets."""
        return self.root / "raw"

    @property
    def preprocessed(self) -> Path:
        """Fingerprints, plans, prepared cases."""
        return self.root / "preprocessed"

    @property
    def results(self) -> Path:
        """Trained networks."""
        return self.root / "results"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables; to be set before nnU-Net is imported."""
        folders = {f"nnUNet_{path.name}": str(path) for path in (self.raw, self.preprocessed, self.results)}
        return folders | _VARIABLES

    def write_dataset(
        self,
        name: str,
        channel: str,
        labels: dict[str, Any],
        cases: Mapping[str, tuple[Path, Path]],
        regions_class_order: list[int] | None = None,
    ) -> None:
        """The raw dataset: copies of (image, label) files under nnU-Net's names."""
        folder = self.raw / name
        if (folder / "dataset.json").exists():
            return
        for room in ("imagesTr", "labelsTr"):
            (folder / room).mkdir(parents=True, exist_ok=True)
        for case, (image, label) in cases.items():
            shutil.copyfile(image, folder / "imagesTr" / f"{case}_0000.nii.gz")
            shutil.copyfile(label, folder / "labelsTr" / f"{case}.nii.gz")
        description = {
            "channel_names": {"0": channel},
            "labels": labels,
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
        }
        if regions_class_order:
            description["regions_class_order"] = regions_class_order
        _write_json(folder / "dataset.json", description)

    def plan(self, dataset: str, planner: str, edit: Edit, plans: str) -> None:
        """Measure the dataset, plan, and change the plans."""
        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
        from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
        from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

        path = self.preprocessed / dataset / f"{plans}.json"
        if path.exists():
            return
        self._description(dataset)
        DatasetFingerprintExtractor(dataset, num_processes=1).run()
        module = residual_encoder_unet_planners if "ResEnc" in planner else default_experiment_planner
        # The planner cannot do with no process, and training on two cores does best with none.
        with patch.dict(os.environ, {"nnUNet_n_proc_DA": "1"}):
            getattr(module, planner)(dataset, plans_name=plans).plan_experiment()
        described = json.loads(path.read_text())
        for name, configuration in described["configurations"].items():
            configuration["data_identifier"] = f"{plans}_{name}"  # two planners call theirs the same
        edit(described)
        _write_json(path, described)

    def preprocess(self, trained: Trained) -> None:
        """Prepare the training cases of one configuration, one after the other."""
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
        from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

        plans = PlansManager(str(self.preprocessed / trained.dataset / f"{trained.plans}.json"))
        configuration = plans.get_configuration(trained.configuration)
        description = self._description(trained.dataset)
        target = self.preprocessed / trained.dataset / configuration.data_identifier
        files = get_filenames_of_train_images_and_targets(str(self.raw / trained.dataset), description)
        target.mkdir(exist_ok=True)
        for case, paths in files.items():
            if not (target / f"{case}.pkl").exists():
                configuration.preprocessor_class(verbose=False).run_case_save(
                    str(target / case), paths["images"], paths["label"], plans, configuration, description
                )

    def train(self, trained: Trained, folds: Sequence[int], steps: int) -> None:
        """A few steps of nnU-Net's own trainer, without its validation of whole cases."""
        import numpy as np
        import torch
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        self.preprocess(trained)
        plans = json.loads((self.preprocessed / trained.dataset / f"{trained.plans}.json").read_text())
        for fold in folds:
            if (trained.folder / f"fold_{fold}" / "checkpoint_final.pth").exists():
                continue
            torch.manual_seed(fold)
            np.random.seed(fold)  # noqa: NPY002 (what nnU-Net draws from)
            trainer = nnUNetTrainer(
                plans | {"continue_training": False},
                trained.configuration,
                fold,
                self._description(trained.dataset),
                torch.device("cpu"),
            )
            trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, steps, 1
            trainer.initialize()
            # Its own optimizer has a momentum of 0.99, which sees little in a hundred steps.
            trainer.optimizer = torch.optim.Adam(trainer.network.parameters(), 3e-3)
            trainer.run_training()

    def hand_over(self, first: Trained, second: Trained) -> None:
        """What the first stage of a cascade says of the training cases, for the training of the second."""
        import torch
        from nnunetv2.inference.export_prediction import resample_and_save
        from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

        self.preprocess(second)
        predictor = open_predictor(first.folder, (0,), mirror=False)
        target = first.folder / "predicted_next_stage" / second.configuration
        target.mkdir(parents=True, exist_ok=True)
        fine = predictor.plans_manager.get_configuration(second.configuration)
        places = [
            str(self.preprocessed / first.dataset / item.data_identifier)
            for item in (predictor.configuration_manager, fine)
        ]
        kind = infer_dataset_class(places[0])
        coarse_cases, fine_cases = (kind(place) for place in places)
        for case in coarse_cases.identifiers:
            if (target / f"{case}.b2nd").exists():
                continue
            data, _, _, properties = coarse_cases.load_case(case)
            shape = fine_cases.load_case(case)[0].shape[1:]
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data[:].copy()))
            resample_and_save(
                logits,
                shape,
                str(target / case),
                predictor.plans_manager,
                predictor.configuration_manager,
                properties,
                predictor.dataset_json,
                2,
                kind,
            )

    def _description(self, dataset: str) -> dict[str, Any]:
        described: dict[str, Any] = json.loads((self.raw / dataset / "dataset.json").read_text())
        # The planner and the preprocessor look for it there; others may read it at the same time.
        path = self.preprocessed / dataset / "dataset.json"
        if not path.exists():
            _write_json(path, described)
        return described


def open_predictor(folder: Path, folds: Sequence[int], *, mirror: bool, device: str = "cpu") -> Any:
    """nnU-Net's predictor of a results folder."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=mirror,
        perform_everything_on_device=device != "cpu",
        device=torch.device(device),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(folder), tuple(folds))
    return predictor


def predict(stages: Sequence[Trained], images: Path, output: Path, folds: Sequence[int], *, mirror: bool) -> list[Path]:
    """Predict all images of a folder in this process, stage after stage; returns the folder of each stage."""
    folders: list[Path] = []
    for stage in stages:
        folders.append(_fresh(output / stage.configuration))
        open_predictor(stage.folder, folds, mirror=mirror).predict_from_files_sequential(
            str(images), str(folders[-1]), folder_with_segs_from_prev_stage=str(folders[-2]) if folders[1:] else None
        )
    return folders


def commands(
    stages: Sequence[Trained], images: Path, output: Path, folds: Sequence[int], *, mirror: bool
) -> tuple[list[list[str]], list[Path]]:
    """The same by its commands; returns them and the folder of each stage."""
    folders: list[Path] = []
    lines = []
    for stage in stages:
        folders.append(_fresh(output / stage.configuration))
        line = [str(Path(sys.executable).parent / "nnUNetv2_predict"), "-i", str(images), "-o", str(folders[-1])]
        line += ["-d", stage.dataset, "-p", stage.plans, "-c", stage.configuration, "-device", "cpu"]
        line += ["-f", *map(str, folds), "--disable_progress_bar"]
        line += [] if mirror else ["--disable_tta"]
        line += ["-prev_stage_predictions", str(folders[-2])] if folders[1:] else []
        lines.append(line)
    return lines, folders


@contextmanager
def single_precision() -> Iterator[None]:
    """nnU-Net adds tiles up in half precision; within this block it does so in single precision."""
    import torch
    from nnunetv2.inference import predict_from_raw_data as module

    original = module.compute_gaussian

    def compute_gaussian(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options | {"dtype": torch.float32})

    compute_gaussian.cache_clear = original.cache_clear  # type: ignore[attr-defined]
    with patch.object(module, "compute_gaussian", compute_gaussian), patch.object(torch, "half", torch.float32):
        yield


@dataclass(frozen=True)
class Cost:
    """Of commands that ran one after the other.

    Attributes:
        seconds: from their start to their end, together.
        peak_mib: most memory that a command and its child processes held at once; what they share counts once.
    """

    seconds: float
    peak_mib: float


def measure(lines: Sequence[Sequence[str]], environment: Mapping[str, str]) -> Cost:
    """Run commands one after the other."""
    peaks = [0]
    start = time.perf_counter()
    for line in lines:
        process = subprocess.Popen(
            line, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        watch = threading.Thread(target=_watch, args=(process, peaks))
        watch.start()
        said, _ = process.communicate()
        watch.join()
        assert process.returncode == 0, said[-3000:]
    return Cost(time.perf_counter() - start, max(peaks) / 2**20)


def _watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    while process.poll() is None:
        peaks.append(sum(map(_held, _family(process.pid))))
        time.sleep(0.5)  # looking takes time too


def _family(process: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything.
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [process]
    for member in found:
        found += children.get(member, [])
    return found


def _held(process: int) -> int:
    """Bytes of a process, its share of what it has in common with others."""
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _write_json(path: Path, body: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1))
