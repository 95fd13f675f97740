"""Nothing that is read can run code: no pickle in the source, and none is opened while a model predicts."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from bad_input.place import make_model, run_voxfit
from synthetic import write_boxes

SOURCE = Path(__file__).resolve().parents[1] / "src" / "voxfit"
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "tarfile"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call, by the name as it is written."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def modules(tree: ast.AST) -> set[str]:
    """The top-level modules that are imported."""
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in found}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_source_reads_no_pickles(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not modules(tree) & FORBIDDEN_MODULES
    for name, call in calls(tree):
        options = {option.arg: ast.unparse(option.value) for option in call.keywords}
        assert name not in FORBIDDEN_CALLS
        assert "allow_pickle" not in options, "NumPy's default is never to unpickle"
        if name == "torch.load":
            assert path.name == "nnunet_checkpoint.py"
            assert options["weights_only"] == "True"
        assert not name.endswith((".extractall", ".unpack_archive")), "archives need path checks"


def test_only_one_place_opens_a_foreign_pickle() -> None:
    found = [
        path.name
        for path in SOURCE.rglob("*.py")
        for name, _ in calls(ast.parse(path.read_text(encoding="utf-8")))
        if name == "torch.load"
    ]
    assert found == ["nnunet_checkpoint.py"]


def test_a_model_predicts_where_pickle_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_boxes(tmp_path / "data", cases=3, test_cases=1)
    make_model(data, tmp_path / "run", tmp_path / "model")

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a pickle was opened")

    for name in ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"):
        monkeypatch.setattr(pickle, name, refuse)
    code, said = run_voxfit(
        ["predict", str(tmp_path / "model"), str(data / "imagesTs"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    )
    assert code == 0, said
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1
