"""Mutated JSON: a valid value, or the error that is meant for it; never anything else."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.budget import SETTINGS
from synthetic import write_boxes
from voxfit.core.errors import DatasetError, Problem, RecordError
from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.inference.model_json import Member, ModelDescription
from voxfit.networks.unet import UNet
from voxfit.planning.plan import Limits, Plan
from voxfit.running.preparation import prepare_only
from voxfit.running.request import FitRequest

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "..", "../../etc/passwd", "/etc/passwd", "\0", "ignore", "background", "NaN", "1e999", "\u0663"]
    ),
)
NUMBERS = st.one_of(
    st.integers(-3, 10),
    st.sampled_from([0, -1, 2**31, 2**63, 10**9, 10**30, 1e308, -1e-300, 0.5]),
    st.floats(allow_nan=True, allow_infinity=True),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all parts of a JSON value but itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*path, key), *places(item, (*path, key)))]


@st.composite
def mutations(draw: st.DrawFn, valid: Any) -> Any:
    """A copy with up to three parts replaced, removed, doubled or added."""
    body = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        found = places(body)
        if not found:
            break
        *way, last = draw(st.sampled_from(found))
        parent = body
        for key in way:
            parent = parent[key]
        match draw(st.sampled_from(["replace", "number", "remove", "double", "add"])):
            case "replace":
                parent[last] = draw(VALUES)
            case "number":
                parent[last] = draw(NUMBERS)
            case "remove":
                del parent[last]
            case "double" if isinstance(parent[last], list):
                parent[last] = parent[last] * 2
            case "add" if isinstance(parent[last], dict):
                parent[last][draw(TEXTS)] = draw(VALUES)
    return body


def check_problems(problems: Sequence[Problem]) -> None:
    assert all(problem.where and problem.what and problem.remedy for problem in problems)


def check_named(error: RecordError, name: str) -> None:
    assert str(error).startswith(f"{name}: ")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """A dataset in each of three forms, with its description."""
    made = {}
    for form in ("folders", "listed", "named"):
        folder = write_boxes(tmp_path_factory.mktemp("data") / form, cases=3, test_cases=1)
        body = json.loads((folder / "dataset.json").read_text())
        names = [f"box_{number:02}" for number in range(3)]
        files = [(f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz") for name in names]
        if form == "listed":
            body["training"] = [{"image": image, "label": label} for image, label in files]
            body["modality"] = body.pop("channel_names")
        if form == "named":
            body["dataset"] = {
                name: {"images": [image], "label": label} for name, (image, label) in zip(names, files, strict=True)
            }
            body["labels"] |= {"both": [2, 5], "ignore": 9}
            body["regions_class_order"] = [2, 5, 2]
            body["groups"] = dict.fromkeys(names, "one")
        made[form] = (folder, body)
    return made


@settings(**SETTINGS)
@given(st.data(), st.sampled_from(["folders", "listed", "named"]))
def test_a_mutated_dataset_opens_or_says_why(
    datasets: dict[str, tuple[Path, dict[str, Any]]], data: st.DataObject, form: str
) -> None:
    folder, body = datasets[form]
    (folder / "dataset.json").write_text(json.dumps(data.draw(mutations(body))))
    try:
        found = Dataset.open(folder)
    except DatasetError as error:
        check_problems(error.problems)
        return
    check_problems(found.problems)
    root = folder.resolve()
    for case in found.cases:
        for path in (*case.images, case.label or ""):
            assert Path(path).resolve().is_relative_to(root)
    if not any(problem.fatal for problem in found.problems):
        assert found.cases
        assert found.labels.names
        assert len(found.labels.members) == len(found.labels.names)
        assert Dataset.open(folder) == found


@settings(**SETTINGS)
@given(st.data())
def test_mutated_splits_are_opened_or_named(
    datasets: dict[str, tuple[Path, dict[str, Any]]], data: st.DataObject
) -> None:
    folder, body = datasets["folders"]
    (folder / "dataset.json").write_text(json.dumps(body))
    splits = [{"train": ["box_00", "box_01"], "val": ["box_02"]}, {"train": ["box_02"], "val": ["box_00", "box_01"]}]
    path = folder / "splits_final.json"
    path.write_text(json.dumps(data.draw(mutations({"splits": splits})).get("splits")))
    try:
        found = Dataset.open(folder)
        if not found.problems:
            assert all(
                name in {"box_00", "box_01", "box_02"} for fold in found.splits for side in fold for name in side
            )
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    root = tmp_path_factory.mktemp("plan")
    limits = Limits(voxel_budget=4096, plane_voxels=2048, base_features=4, cascade_factor=1)
    data = write_boxes(root / "data", cases=3, test_cases=1)
    return prepare_only(FitRequest(data, root / "run", limits=limits, workers=1), Listener(), stores=False)


@settings(**SETTINGS)
@given(st.data())
def test_a_mutated_plan_is_valid_or_a_record_error(plan: Plan, data: st.DataObject) -> None:
    text = json.dumps(data.draw(mutations(json.loads(plan.to_json()))))
    try:
        found = Plan.from_json(text, "plan.json")
    except RecordError as error:
        check_named(error, "plan.json")
        return
    assert Plan.from_json(found.to_json()) == found
    for name in found.configurations:
        found.grid(name)
        build_nowhere(found, name)


@settings(**SETTINGS)
@given(st.data())
def test_a_mutated_model_is_valid_or_a_record_error(plan: Plan, data: st.DataObject) -> None:
    whole = ModelDescription(
        name="2d",
        plan=plan,
        members=(Member(configuration="2d", weights=("weights/a.safetensors",), checksums=("0" * 64,)),),
        cross_validated_dice=0.5,
        inputs_digest="",
        made_by="a test",
    )
    text = json.dumps(data.draw(mutations(json.loads(whole.to_json()))))
    try:
        found = ModelDescription.from_json(text, "model.json")
    except RecordError as error:
        check_named(error, "model.json")
        return
    root = Path("/nowhere/model")
    for member in (*found.members, *found.stages):
        build_nowhere(found.plan, member.configuration)
        for name in member.weights:
            assert (root / name).resolve().is_relative_to(root)


def build_nowhere(plan: Plan, name: Any) -> None:
    """The network, without memory for its weights."""
    import torch

    with torch.device("meta"):
        UNet(plan.topology(name))


@settings(**SETTINGS)
@given(st.binary(max_size=300))
def test_bytes_are_no_plan(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"bytes\.json"):
        Plan.load(path)
