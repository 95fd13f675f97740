"""No output is an input or a file of a dataset, by whatever path."""

import json
import os
from pathlib import Path

import pytest

from voxfit.core.errors import UsageError
from voxfit.imaging.protection import protect


@pytest.fixture
def dataset(tmp_path):
    """Files only: what is in them does not matter here."""
    folder = tmp_path / "data"
    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b.nii.gz", "labelsTs/b.nii.gz", "x/c.nii.gz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"voxels")
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "thing": 1}}
    description |= {"training": [{"image": "./x/c.nii.gz", "label": "./labelsTr/a.nii.gz"}]}
    (folder / "dataset.json").write_text(json.dumps(description))
    (folder / "splits_final.json").write_text("[]")
    return folder


def _itself(path, elsewhere):
    return path


def _by_a_dot(path, elsewhere):
    return path.parent / "." / "sub" / ".." / path.name


def _relative(path, elsewhere):
    return Path(os.path.relpath(path))


def _link(path, elsewhere):
    (elsewhere / "link").symlink_to(path)
    return elsewhere / "link"


def _linked_folder(path, elsewhere):
    (elsewhere / "folder").symlink_to(path.parent, target_is_directory=True)
    return elsewhere / "folder" / path.name


def _hard_link(path, elsewhere):
    os.link(path, elsewhere / "twin")
    return elsewhere / "twin"


def _read_only(path, elsewhere):
    path.chmod(0o444)
    return path


WAYS = [_itself, _by_a_dot, _relative, _link, _linked_folder, _hard_link, _read_only]


@pytest.fixture
def elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


@pytest.mark.parametrize("way", WAYS)
def test_an_input_is_refused_by_whatever_path(tmp_path, elsewhere, way):
    image = tmp_path / "images" / "a.nii.gz"
    (image.parent / "sub").mkdir(parents=True)
    image.write_bytes(b"voxels")
    output = way(image, elsewhere)
    for reads, writes in ((image, output), (output, image)):
        with pytest.raises(UsageError, match="is read here and would be replaced"):
            protect([tmp_path / "new.nii.gz", writes], [reads])
        with pytest.raises(UsageError, match="is read here"):
            protect([writes], [reads], made={writes})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    [
        "imagesTr/a_0000.nii.gz",
        "labelsTr/a.nii.gz",
        "labelsTs/b.nii.gz",
        "dataset.json",
        "splits_final.json",
        "x/c.nii.gz",
    ],
)
def test_a_file_of_a_dataset_is_refused_by_whatever_path(dataset, elsewhere, way, name):
    file = dataset / name
    (file.parent / "sub").mkdir()
    with pytest.raises(UsageError, match="belongs to a dataset and would be replaced"):
        protect([way(file, elsewhere)], [dataset / "imagesTs" / "b.nii.gz"])


def test_all_else_may_be_written(dataset, tmp_path):
    images = [dataset / "imagesTs" / "b.nii.gz"]
    (tmp_path / "there.nii.gz").write_bytes(b"")
    (dataset / "predictions").mkdir()
    (dataset / "predictions" / "b.nii.gz").write_bytes(b"")
    protect([tmp_path / "there.nii.gz", tmp_path / "new.nii.gz", dataset / "predictions" / "b.nii.gz"], images)
    protect([dataset / "labelsTs" / "new.nii.gz"], images)
    # What voxfit wrote among the files of a dataset is its own.
    protect([dataset / "labelsTs" / "b.nii.gz"], images, made={dataset / "labelsTs" / "b.nii.gz"})
