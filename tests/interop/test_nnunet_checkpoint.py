"""Checkpoints as nnU-Net v2 writes them are read; whatever else a file holds neither runs nor passes."""

import contextlib
import os
import zipfile

import numpy as np
import pytest
import torch

from voxfit.core.errors import ModelError
from voxfit.interop.nnunet_checkpoint import read_checkpoint


def content(**changes):
    """What `nnUNetTrainer.save_checkpoint` saves, NumPy numbers in the log included."""
    weight = torch.arange(8.0).reshape(2, 4)
    body = {
        "network_weights": {"encoder.weight": weight, "decoder.encoder.weight": weight},
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": {"scale": 65536.0, "_growth_tracker": 3},
        "logging": {
            "mean_fg_dice": [np.float64(0.5), np.float32(0.25)],
            "dice_per_class_or_region": [[np.float64(0.5)], [np.float16(0.5), np.int64(1), np.float64("nan")]],
            "lrs": [0.01],
        },
        "_best_ema": np.float64(0.7),
        "current_epoch": 1000,
        "init_args": {
            "plans": {"plans_name": "nnUNetPlans", "transpose_forward": [0, 1, 2]},
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": {"labels": {"background": 0}},
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    return body | changes


def without(key):
    return {name: value for name, value in content().items() if name != key}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint_final.pth"


def test_a_checkpoint_is_read(path):
    torch.save(content(), path)
    found = read_checkpoint(path)
    assert list(found.weights) == ["encoder.weight", "decoder.encoder.weight"]
    assert torch.equal(found.weights["encoder.weight"], torch.arange(8.0).reshape(2, 4))
    assert (found.configuration, found.trainer) == ("3d_fullres", "nnUNetTrainer")
    assert found.mirror_axes == (0, 1, 2)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_numbers_are_known_by_their_old_and_their_new_name(path, tmp_path, module):
    torch.save(content(), tmp_path / "here.pth")
    with zipfile.ZipFile(tmp_path / "here.pth") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert b"multiarray\nscalar\n" in data
                for spelling in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
                    data = data.replace(spelling, module.encode())
            target.writestr(name, data)
    assert torch.equal(read_checkpoint(path).weights["encoder.weight"], torch.arange(8.0).reshape(2, 4))


@pytest.mark.parametrize("axes", [None, (), "missing"])
def test_a_network_that_is_not_mirrored(path, axes):
    key = "inference_allowed_mirroring_axes"
    torch.save(without(key) if axes == "missing" else content(**{key: axes}), path)
    assert read_checkpoint(path).mirror_axes == ()


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["network_weights", "logging", "init_args", "trainer_name", "anything"])
def test_nothing_in_a_checkpoint_runs(path, tmp_path, place):
    trap = tmp_path / "trap"
    for function, arguments, named in (
        (os.mkdir, (str(trap),), "mkdir"),
        (os.system, (f"touch {trap}",), "system"),
        (exec, (f"open({str(trap)!r}, 'w')",), "exec"),
        (np.savetxt, (str(trap), [0.0]), "savetxt"),
    ):
        torch.save(content(**{place: Malicious(function, *arguments)}), path)
        with pytest.raises(ModelError, match=f"checkpoint_final.pth: reading it would run .*{named}"):
            read_checkpoint(path)
        assert not trap.exists()


def test_numpy_itself_does_not_run(path):
    """Not even its types: what they do with a crafted state is not PyTorch's to guarantee."""
    torch.save(content(logging=[Malicious(np.dtype, "no such type")]), path)
    assert read_checkpoint(path).trainer == "nnUNetTrainer"


def test_pytorch_before_its_reader_was_safe_is_not_used(path, monkeypatch):
    """CVE-2025-32434."""
    torch.save(content(), path)
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1+cpu"))
    with pytest.raises(ModelError, match=r"Install PyTorch 2\.6 or later"):
        read_checkpoint(path)


def test_what_is_not_known_is_named(path):
    torch.save(content(logging=[np.ones(3)]), path)
    with pytest.raises(ModelError, match=r"_reconstruct"):
        read_checkpoint(path)


def test_what_is_known_is_known_only_while_reading(path):
    torch.save(content(), path)
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, share):
    torch.save(content(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"checkpoint_final\.pth: .*Copy it again"):
        read_checkpoint(path)


def test_a_changed_weight_is_noticed(path):
    torch.save(content(), path)
    data = bytearray(path.read_bytes())
    place = data.index(torch.arange(8.0).numpy().tobytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="is damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("seed", range(20))
def test_no_damage_escapes_as_another_error(path, seed):
    """The pickle is changed behind the back of its checksum."""
    torch.save(content(), path)
    generator = np.random.default_rng(seed)
    with zipfile.ZipFile(path) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, data in parts.items():
            changed = np.frombuffer(data, np.uint8).copy()
            if name.endswith("data.pkl"):
                places = generator.integers(2, len(changed), 5)
                changed[places] = generator.integers(0, 256, 5)
            target.writestr(name, changed.tobytes())
    with contextlib.suppress(ModelError):
        read_checkpoint(path)


def test_other_files_are_refused(path, tmp_path):
    torch.save(content(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match="no checkpoint of nnU-Net v2"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text.txt", "hello")
    with pytest.raises(ModelError, match="cannot be read"):
        read_checkpoint(path)
    for missing in (tmp_path / "missing.pth", tmp_path):
        with pytest.raises(ModelError, match="no such file"):
            read_checkpoint(missing)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ([1, 2], "it holds a list"),
        (without("network_weights"), '"network_weights" is missing'),
        (content(network_weights={}), '"network_weights" is missing'),
        (content(network_weights={"encoder.weight": 3.0}), '"network_weights" is missing'),
        (content(network_weights={0: torch.ones(2)}), '"network_weights" is missing'),
        (content(network_weights={"w": torch.ones(2).to_sparse()}), '"network_weights" is missing'),
        (content(network_weights={"w": torch.ones(2, device="meta")}), '"network_weights" is missing'),
        (without("init_args"), '"init_args" does not name'),
        (content(init_args={"configuration": 3}), '"init_args" does not name'),
        (without("trainer_name"), '"trainer_name" is missing'),
        (content(trainer_name=np.float64(3)), '"trainer_name" is missing'),
        (content(inference_allowed_mirroring_axes=(0, 3)), "are not axes"),
        (content(inference_allowed_mirroring_axes=(True,)), "are not axes"),
        (content(inference_allowed_mirroring_axes=2), "are not axes"),
    ],
)
def test_what_is_missing_is_named(path, body, problem):
    torch.save(body, path)
    with pytest.raises(ModelError, match=problem):
        read_checkpoint(path)
