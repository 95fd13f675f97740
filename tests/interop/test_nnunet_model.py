"""Results folders of nnU-Net v2 become models. The oracle is nnU-Net's networks, written down as plain functions."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from voxfit.core.errors import ModelError, UsageError
from voxfit.core.progress import Listener
from voxfit.inference.model import Model
from voxfit.inference.model_json import ModelDescription
from voxfit.inference.torch_networks import load_network
from voxfit.interop.nnunet_model import import_nnunet
from voxfit.planning.grid import ClipAndScale, Divide, Preparation, UnitRange, ZScore
from voxfit.planning.plan import Inference

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def architecture(dimension, strides, kernels, features, blocks, decoder, name=PLAIN):
    """An entry "architecture" of plans.json."""
    key = "n_conv_per_stage" if name == PLAIN else "n_blocks_per_stage"
    return {
        "network_class_name": name,
        "arch_kwargs": {
            "n_stages": len(features),
            "features_per_stage": features,
            "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
            "kernel_sizes": kernels,
            "strides": strides,
            key: blocks,
            "n_conv_per_stage_decoder": decoder,
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


FLAT = architecture(2, [[1, 1], [2, 1], [2, 2]], [[3, 1], [3, 3], [3, 3]], [4, 6, 8], [2, 1, 2], [1, 2])
SOLID = architecture(
    3, [[1, 1, 1], [1, 2, 2], [2, 2, 1]], [[1, 3, 3], [3, 3, 3], [3, 1, 5]], [4, 6, 8], [2, 1, 2], [1, 2]
)
# The second level needs no projection, the third nothing at all, the fourth a projection without pooling.
RESIDUAL_SOLID = architecture(
    3,
    [[1, 1, 1], [1, 2, 2], [1, 1, 1], [1, 1, 1], [2, 1, 2]],
    [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 1], [3, 3, 3]],
    [4, 4, 4, 6, 8],
    [1, 2, 1, 2, 2],
    [1, 2, 1, 1],
    RESIDUAL,
)
RESIDUAL_FLAT = architecture(2, [[1, 1], [2, 1], [2, 2]], [[3, 1], [3, 3], [3, 3]], [4, 6, 8], [1, 2, 2], 1, RESIDUAL)


class Peer:
    """A network of nnU-Net: its weights by nnU-Net's names, and what it computes."""

    def __init__(self, network, inputs=1, outputs=3, seed=0):
        arguments = network["arch_kwargs"]
        self.residual = network["network_class_name"] == RESIDUAL
        self.dimension = int(arguments["conv_op"][-2])
        self.levels = arguments["n_stages"]
        self.features = arguments["features_per_stage"]
        self.strides = self.spread(arguments["strides"])
        self.kernels = self.spread(arguments["kernel_sizes"])
        self.encoder = arguments["n_blocks_per_stage" if self.residual else "n_conv_per_stage"]
        decoder = arguments["n_conv_per_stage_decoder"]
        self.decoder = [decoder] * (self.levels - 1) if isinstance(decoder, int) else decoder
        self.bias = arguments["conv_bias"]
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = {}
        self.draw(inputs, outputs)

    def spread(self, values):
        each = [values] * self.levels if isinstance(values, int) else values
        return [[value] * self.dimension if isinstance(value, int) else value for value in each]

    def random(self, *shape):
        return torch.randn(shape, generator=self.generator) / math.sqrt(math.prod(shape[1:]))

    def add(self, name, value, copies=()):
        for each in (name, *copies):
            self.weights[each] = value

    def draw_unit(self, name, inputs, outputs, kernel, bias):
        """Convolution and norm; each is in the file twice, what is in the encoder four times."""
        values = {"conv.weight": self.random(outputs, inputs, *kernel)}
        values |= {"conv.bias": self.random(outputs)} if bias else {}
        values |= {"norm.weight": 1 + self.random(outputs) / 4, "norm.bias": self.random(outputs)}
        for key, value in values.items():
            other = key.replace("conv", "all_modules.0").replace("norm", "all_modules.1")
            names = [f"{name}.{key}", f"{name}.{other}"]
            if name.startswith("encoder"):
                names += [f"decoder.{each}" for each in names]
            self.add(names[0], value, names[1:])

    def draw(self, inputs, outputs):
        one, last = [1] * self.dimension, self.levels - 1
        if self.residual:
            self.draw_unit("encoder.stem.convs.0", inputs, self.features[0], self.kernels[0], self.bias)
            inputs = self.features[0]
        for level, width in enumerate(self.features):
            for block in range(self.encoder[level]):
                if self.residual:
                    name = f"encoder.stages.{level}.blocks.{block}"
                    self.draw_unit(f"{name}.conv1", inputs, width, self.kernels[level], self.bias)
                    self.draw_unit(f"{name}.conv2", width, width, self.kernels[level], self.bias)
                    if inputs != width:
                        place = 1 if block == 0 and max(self.strides[level]) > 1 else 0
                        self.draw_unit(f"{name}.skip.{place}", inputs, width, one, False)
                else:
                    name = f"encoder.stages.{level}.0.convs.{block}"
                    self.draw_unit(name, inputs, width, self.kernels[level], self.bias)
                inputs = width
        for step in range(last):
            above, below = self.features[last - step - 1], self.features[last - step]
            self.add(f"decoder.transpconvs.{step}.weight", self.random(below, above, *self.strides[last - step]))
            if self.bias:
                self.add(f"decoder.transpconvs.{step}.bias", self.random(above))
            for block in range(self.decoder[step]):
                name = f"decoder.stages.{step}.convs.{block}"
                self.draw_unit(name, above if block else 2 * above, above, self.kernels[last - step - 1], self.bias)
            self.add(f"decoder.seg_layers.{step}.weight", self.random(outputs, above, *one))
            self.add(f"decoder.seg_layers.{step}.bias", self.random(outputs))

    def convolved(self, name, image, stride=1):
        weight, bias = self.weights[f"{name}.weight"].double(), self.weights.get(f"{name}.bias")
        padding = [size // 2 for size in weight.shape[2:]]
        convolution = functional.conv2d if self.dimension == 2 else functional.conv3d
        return convolution(image, weight, bias if bias is None else bias.double(), stride, padding)

    def unit(self, name, image, stride=1, active=True):
        scale, shift = (self.weights[f"{name}.norm.{kind}"].double() for kind in ("weight", "bias"))
        made = functional.instance_norm(self.convolved(f"{name}.conv", image, stride), weight=scale, bias=shift)
        return functional.leaky_relu(made, 0.01) if active else made

    def block(self, name, image, stride):
        made = self.unit(f"{name}.conv2", self.unit(f"{name}.conv1", image, stride), active=False)
        place = 0
        if max(stride) > 1:
            pool = functional.avg_pool2d if self.dimension == 2 else functional.avg_pool3d
            image, place = pool(image, stride), 1
        if f"{name}.skip.{place}.conv.weight" in self.weights:
            image = self.unit(f"{name}.skip.{place}", image, active=False)
        return functional.leaky_relu(made + image, 0.01)

    def __call__(self, image):
        one, skips = [1] * self.dimension, []
        state = self.unit("encoder.stem.convs.0", image) if self.residual else image
        for level, blocks in enumerate(self.encoder):
            for block in range(blocks):
                stride = one if block else self.strides[level]
                if self.residual:
                    state = self.block(f"encoder.stages.{level}.blocks.{block}", state, stride)
                else:
                    state = self.unit(f"encoder.stages.{level}.0.convs.{block}", state, stride)
            skips.append(state)
        up = functional.conv_transpose2d if self.dimension == 2 else functional.conv_transpose3d
        for step, blocks in enumerate(self.decoder):
            name, stride = f"decoder.transpconvs.{step}", self.strides[-1 - step]
            bias = self.weights[f"{name}.bias"].double() if self.bias else None
            state = up(state, self.weights[f"{name}.weight"].double(), bias, stride)
            state = torch.cat([state, skips[-2 - step]], dim=1)
            for block in range(blocks):
                state = self.unit(f"decoder.stages.{step}.convs.{block}", state)
        return self.convolved(f"decoder.seg_layers.{self.levels - 2}", state)


def resampling(order, is_seg=False):
    return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}


def configuration(network, **changes):
    """An entry of "configurations" in plans.json; axes are turned, the divisor of each is a factor of its edge."""
    dimension = int(network["arch_kwargs"]["conv_op"][-2])
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 16, 24][-dimension:],
        "median_image_size_in_voxels": [9.0, 21.5, 0.2][-dimension:],
        "spacing": [3.0, 1.0, 0.75][-dimension:],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling(3),
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": resampling(1, True),
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling(1),
        "batch_dice": False,
        "architecture": network,
    } | changes


def plans(configurations, forward=(0, 1, 2), **changes):
    return {
        "dataset_name": "Dataset999_Test",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(forward),
        "transpose_backward": np.argsort(forward).tolist(),
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"max": 900.0, "mean": 80.5, "median": 80, "min": -50, "percentile_00_5": -40, "percentile_99_5": 200}
            | {"std": 30.25}
        },
    } | changes


TWO_CHANNELS = {"normalization_schemes": ["ZScoreNormalization"] * 2, "use_mask_for_norm": [False] * 2}

DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 17,
    "file_ending": ".nii.gz",
}


def write(
    folder, description, name, peers, *, dataset=None, axes=None, trainer="nnUNetTrainer", file="checkpoint_final.pth"
):
    """A results folder; `peers` by fold, networks or weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(description))
    (folder / "dataset.json").write_text(json.dumps(dataset or DATASET))
    for fold, peer in peers.items():
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        checkpoint = {
            "network_weights": peer.weights if isinstance(peer, Peer) else peer,
            "init_args": {"plans": description, "configuration": name, "fold": fold},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": axes,
            "logging": {"mean_fg_dice": [np.float64(0.5)]},
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / file)
    return folder


@pytest.fixture
def results(tmp_path):
    return tmp_path / "Dataset999_Test" / "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "model"


def imported(results, output, **keywords):
    return ModelDescription.load(import_nnunet(results, output, **keywords) / "model.json")


def logits(output, description, volume):
    """What the imported network of the first fold says of a (channel, z, y, x) volume, or of its first slice."""
    member = description.members[0]
    network = load_network(description.plan, member.configuration, output / member.weights[0]).double().eval()
    axis = description.plan.configurations[member.configuration].slice_axis
    image = torch.from_numpy(volume) if axis is None else torch.from_numpy(volume).select(axis + 1, 0)
    with torch.inference_mode():
        return network(image[None])[0].numpy()


def peer_logits(peer, volume, forward):
    """The same by nnU-Net: axes are turned before the network, and back behind it."""
    turned = torch.from_numpy(np.transpose(volume, (0, *(axis + 1 for axis in forward))).copy())
    if peer.dimension == 3:
        found = peer(turned[None])[0].numpy()
        return found.transpose(0, *(1 + np.argsort(forward)))
    found = peer(turned[None, :, 0])[0].numpy()
    return found if forward[1] < forward[2] else found.transpose(0, 2, 1)


@pytest.mark.parametrize("forward", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("network", [FLAT, SOLID, RESIDUAL_FLAT, RESIDUAL_SOLID], ids=["2d", "3d", "2d-res", "3d-res"])
def test_the_network_says_the_same(results, output, network, forward):
    """Whichever way the axes were turned; strides and kernels are different along each."""
    peer = Peer(network, inputs=2)
    write(
        results,
        plans({"any": configuration(network, **TWO_CHANNELS)}, forward),
        "any",
        {0: peer},
        dataset=DATASET | {"channel_names": {"0": "T1", "1": "T2"}},
    )
    volume = np.random.default_rng(3).normal(size=(2, 16, 16, 24))
    found = logits(output, imported(results, output), volume)
    expected = peer_logits(peer, volume, forward)
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_numbers_stand_for_all_levels_and_axes(results, output):
    network = architecture(3, [1, [1, 2, 2], 2], 3, [4, 4, 4], 2, 1)
    network["arch_kwargs"] |= {"conv_bias": False, "features_per_stage": 4, "deep_supervision": True}
    spread = architecture(3, [1, [1, 2, 2], 2], 3, [4, 4, 4], [2, 2, 2], [1, 1])
    spread["arch_kwargs"]["conv_bias"] = False
    peer = Peer(spread)
    write(results, plans({"3d_fullres": configuration(network)}), "3d_fullres", {0: peer})
    volume = np.random.default_rng(3).normal(size=(1, 8, 16, 16))
    np.testing.assert_allclose(
        logits(output, imported(results, output), volume), peer_logits(peer, volume, (0, 1, 2)), atol=1e-10
    )


@pytest.mark.parametrize(("name", "network"), [("PlainConvUNet", SOLID), ("ResidualEncoderUNet", RESIDUAL_SOLID)])
def test_older_plans_are_understood(results, output, name, network):
    arguments = network["arch_kwargs"]
    widths = [4 << level for level in range(arguments["n_stages"])]
    network = network | {"arch_kwargs": arguments | {"features_per_stage": [min(width, 8) for width in widths]}}
    peer = Peer(network)
    older = configuration(network) | {
        "UNet_class_name": name,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": peer.encoder,
        "n_conv_per_stage_decoder": peer.decoder,
        "num_pool_per_axis": [1, 1, 1],
        "pool_op_kernel_sizes": peer.strides,
        "conv_kernel_sizes": peer.kernels,
    }
    del older["architecture"]
    write(results, plans({"3d_fullres": older}), "3d_fullres", {0: peer})
    volume = np.random.default_rng(3).normal(size=(1, 8, 16, 16))
    np.testing.assert_allclose(
        logits(output, imported(results, output), volume), peer_logits(peer, volume, (0, 1, 2)), atol=1e-10
    )


def test_the_plan_of_a_3d_network_is_turned_back(results, output):
    """nnU-Net has put x first."""
    write(results, plans({"3d_fullres": configuration(SOLID)}, (2, 0, 1)), "3d_fullres", {0: Peer(SOLID)}, axes=(0, 2))
    description = imported(results, output)
    found = description.plan.configurations["3d"]
    assert found.patch_size == (16, 24, 8)
    assert found.spacing_mm == (1.0, 0.75, 3.0)
    assert found.median_shape == (22, 1, 9)
    assert found.stages.strides == ((1, 1, 1), (2, 2, 1), (2, 1, 2))
    assert found.stages.kernels == ((3, 3, 1), (3, 3, 3), (1, 5, 3))
    assert found.num_pool == (2, 1, 1)
    assert (found.stages.features, found.stages.encoder_blocks) == ((4, 6, 8), (2, 1, 2))
    assert found.stages.decoder_blocks == (2, 1)
    assert (found.base_features, found.max_features, found.pooling) == (4, 8, "strided")
    assert (found.dice, found.augmentation, found.batch_size) == ("sample", "3d", 2)
    plan = description.plan
    assert plan.preparation == Preparation(first="normalize", coarse_axis_ratio=3.0, labels="linear")
    assert plan.inference == Inference(
        average_over="logits", gaussian_center="shifted", mirror_axes=(1, 2), cascade_input="segmentation"
    )
    assert (plan.dataset, plan.channel_names, plan.num_cases) == ("Dataset999_Test", ("MRI",), 17)
    assert plan.labels.names == ("liver", "tumour")
    assert (description.name, description.members[0].weights) == ("3d", ("weights/3d_fold_0.safetensors",))
    assert "nnUNetTrainer__nnUNetPlans__3d_fullres" in description.made_by


def test_the_plan_of_a_2d_network_keeps_the_spacing_of_slices(results, output):
    """nnU-Net has put y first, and cuts slices along it."""
    description = plans({"2d": configuration(FLAT, batch_dice=True)}, (1, 0, 2))
    write(results, description, "2d", {0: Peer(FLAT)}, axes=(0, 1))
    plan = imported(results, output).plan
    found = plan.configurations["2d"]
    assert (found.slice_axis, found.slice_spacing) == (1, None)
    assert found.spacing_mm == (1.0, None, 0.75)
    assert found.patch_box == (16, 1, 24)
    assert found.stages.strides == ((1, 1), (2, 1), (2, 2))
    assert (found.dice, found.augmentation) == ("batch", "2d")
    assert plan.inference.mirror_axes == (0, 2)


def test_the_model_opens_and_predicts(results, output):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {0: Peer(FLAT), 1: Peer(FLAT, seed=1)}, axes=(0, 1))
    import_nnunet(results, output)
    found = Model.open(output, "cpu").predict(np.random.default_rng(0).normal(size=(3, 20, 30)), (4.0, 1.0, 1.0))
    assert found.shape == (3, 20, 30)
    assert set(np.unique(found)) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("scheme", "mask", "rule"),
    [
        ("ZScoreNormalization", False, ZScore(inside_mask=False)),
        ("ZScoreNormalization", True, ZScore(inside_mask=True)),
        ("CTNormalization", False, ClipAndScale(lower=-40.0, upper=200.0, mean=80.5, standard_deviation=30.25)),
        ("NoNormalization", False, Divide(by=1.0)),
        ("RescaleTo01Normalization", False, UnitRange()),
        ("RGBTo01Normalization", False, Divide(by=255.0)),
    ],
)
def test_normalization(results, output, scheme, mask, rule):
    changed = configuration(FLAT, normalization_schemes=[scheme], use_mask_for_norm=[mask])
    write(results, plans({"2d": changed}), "2d", {0: Peer(FLAT)})
    assert imported(results, output).plan.normalization == (rule,)


def test_a_constant_ct_channel_is_divided_by_nnunets_smallest_deviation(results, output):
    description = plans({"2d": configuration(FLAT, normalization_schemes=["CTNormalization"])})
    properties = description.pop("foreground_intensity_properties_per_channel")
    properties["0"]["std"] = 0
    description["foreground_intensity_properties_by_modality"] = properties  # the older name
    write(results, description, "2d", {0: Peer(FLAT)})
    assert imported(results, output).plan.normalization[0].standard_deviation == 1e-8


@pytest.mark.parametrize(
    ("labels", "order", "outputs"),
    [
        ({"background": 0, "liver": 1, "tumour": 2, "ignore": 3}, None, 3),
        ({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2], 2),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3, "ignore": 4}, [1, 2, 3], 3),
    ],
)
def test_regions_and_ignored_voxels(results, output, labels, order, outputs):
    dataset = DATASET | {"labels": labels} | ({"regions_class_order": order} if order else {})
    write(results, plans({"2d": configuration(FLAT)}), "2d", {0: Peer(FLAT, outputs=outputs)}, dataset=dataset)
    plan = imported(results, output).plan
    assert plan.topology("2d").out_channels == outputs
    assert plan.labels.ignore == labels.get("ignore")


def test_a_variant_inherits(results, output):
    description = plans(
        {
            "3d_fullres": configuration(SOLID),
            "bs8": {"batch_size": 8, "inherits_from": "3d_fullres"},
            "bs8_dice": {"batch_dice": True, "inherits_from": "bs8"},
        }
    )
    write(results, description, "bs8_dice", {0: Peer(SOLID)})
    found = imported(results, output).plan.configurations["3d"]
    assert (found.batch_size, found.dice) == (8, "batch")


def kwargs(**changes):
    return {"architecture": SOLID | {"arch_kwargs": SOLID["arch_kwargs"] | changes}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (kwargs(norm_op="torch.nn.modules.batchnorm.BatchNorm3d"), "norm_op is 'torch.*BatchNorm3d', but only"),
        (kwargs(norm_op=None), "norm_op is None"),
        (kwargs(norm_op_kwargs={"eps": 1e-3, "affine": True}), "norm_op_kwargs is .*0.001"),
        (kwargs(norm_op_kwargs=None), "norm_op_kwargs is .*'affine': False"),
        (kwargs(dropout_op="torch.nn.Dropout3d"), "dropout_op is 'torch.nn.Dropout3d'"),
        (kwargs(nonlin="torch.nn.ReLU"), "nonlin is 'torch.nn.ReLU'"),
        (kwargs(nonlin="evil.nn.LeakyReLU"), "nonlin is 'evil.nn.LeakyReLU'"),
        (kwargs(nonlin_kwargs={"negative_slope": 0.2}), "nonlin_kwargs is .*0.2"),
        (kwargs(nonlin_first=True), "nonlin_first is True"),
        (kwargs(conv_op="torch.nn.Conv2d"), "conv_op is 'torch.nn.Conv2d'"),
        (kwargs(pool="max"), "pool: Extra inputs"),
        (kwargs(block="dynamic_network_architectures.building_blocks.residual.BottleneckD"), "block is 'BottleneckD'"),
        (kwargs(bottleneck_channels=4), "bottleneck_channels is 4"),
        (kwargs(stem_channels=16), "stem_channels is 16"),
        (kwargs(n_stages=4), "features_per_stage is .* not 4 numbers"),
        (kwargs(n_stages=1), "n_stages is less than 2"),
        (kwargs(n_conv_per_stage=None), "n_conv_per_stage is None"),
        (kwargs(strides=[[1, 1, 1], [2, 2]]), "strides is .* not 3 entries"),
        (kwargs(strides=[[1, 1, 1], [2, 2], [2, 2, 2]]), "strides is .* not 3 numbers"),
        (kwargs(strides=[[2, 2, 2], [1, 1, 1], [1, 1, 1]]), "the strides of level 0 must be 1"),
        (kwargs(kernel_sizes=2), "kernels must be odd"),
        (kwargs(kernel_sizes="three"), "kernel_sizes"),
        ({"architecture": SOLID | {"network_class_name": "my.PlainConvUNet"}}, "its network is my.PlainConvUNet"),
        (
            {"architecture": SOLID | {"network_class_name": PLAIN.replace("Plain", "Residual")}},
            "its network is .*ResidualConvUNet",
        ),
        ({"architecture": 3}, "Input should be a valid dictionary"),
        ({"patch_size": [8, 16, 18]}, None),
        ({"patch_size": [8, 18, 24]}, "patch_size is .* do not divide"),
        ({"spacing": [1.0, 1.0]}, "spacing is .* not 3 numbers"),
        ({"spacing": [1.0, 1.0, -1.0]}, "spacing"),
        ({"batch_size": None}, "batch_size: Input should be a valid integer"),
        ({"preprocessor_name": "MyPreprocessor"}, "preprocessor_name is 'MyPreprocessor'"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "resampling_fn_data is 'resample_torch_fornnunet'"),
        ({"resampling_fn_data_kwargs": resampling(1)}, "resampling_fn_data_kwargs is .*'order': 1"),
        ({"resampling_fn_seg_kwargs": resampling(1)}, "resampling_fn_seg_kwargs is"),
        ({"resampling_fn_probabilities_kwargs": {"order": 1}}, "resampling_fn_probabilities_kwargs is"),
        ({"resampling_fn_probabilities_kwargs": 3}, "resampling_fn_probabilities_kwargs: Input"),
        ({"normalization_schemes": ["MyNormalization"]}, "normalization_schemes has 'MyNormalization'"),
        ({"normalization_schemes": ["NoNormalization"] * 2}, "are not of the same length"),
        (TWO_CHANNELS, "normalization needs one entry for each channel"),
        ({"normalization_schemes": ["CTNormalization"], "inherits_from": "3d_fullres"}, "inherits from itself"),
        ({"inherits_from": 3}, "configuration 3 is missing"),
    ],
)
def test_what_voxfit_cannot_be_is_refused_by_name(results, output, changes, problem):
    write(results, plans({"3d_fullres": configuration(SOLID, **changes)}), "3d_fullres", {0: Peer(SOLID)})
    if problem is None:
        import_nnunet(results, output)
        return
    with pytest.raises(ModelError, match=rf"plans\.json: 3d_fullres: .*{problem}"):
        import_nnunet(results, output)
    assert not list(output.parent.glob("*model*"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"image_reader_writer": "NibabelIOWithReorient"}, "image_reader_writer is 'NibabelIOWithReorient'"),
        ({"label_manager": "MyManager"}, "label_manager is 'MyManager'"),
        ({"transpose_forward": [0, 0, 2]}, r"transpose_forward is \[0, 0, 2\]"),
        ({"configurations": {}}, "configuration '3d_fullres' is missing"),
        ({"configurations": 3}, "configurations: Input should be a valid dictionary"),
        ({"dataset_name": None}, "dataset_name"),
        ({"foreground_intensity_properties_per_channel": {}}, "mean|valid dictionary"),
    ],
)
def test_other_plans_are_refused(results, output, changes, problem):
    description = plans({"3d_fullres": configuration(SOLID, normalization_schemes=["CTNormalization"])}) | changes
    write(results, description, "3d_fullres", {0: Peer(SOLID)})
    with pytest.raises(ModelError, match=problem):
        import_nnunet(results, output)


@pytest.mark.parametrize(
    "changes", [{"labels": {"background": 0, "liver": "one"}}, {"labels": 3}, {"channel_names": ["MRI"]}]
)
def test_another_dataset_json_is_refused(results, output, changes):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {0: Peer(FLAT)}, dataset=DATASET | changes)
    with pytest.raises(ModelError, match=r"dataset\.json: "):
        import_nnunet(results, output)


def test_mirrored_axes_must_be_the_networks(results, output):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {0: Peer(FLAT)}, axes=(0, 2))
    with pytest.raises(ModelError, match=r"mirrored along \[0, 2\]"):
        import_nnunet(results, output)


WEIGHTS = Peer(FLAT).weights
HEAD = "decoder.seg_layers.1.weight"


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({name: value for name, value in WEIGHTS.items() if name != HEAD}, f"it lacks {HEAD}"),
        ({name: value for name, value in WEIGHTS.items() if "stages.1.0.convs" not in name}, "it lacks encoder.stages"),
        (WEIGHTS | {"encoder.stages.0.0.convs.0.norm.running_mean": torch.ones(4)}, "it has .*running_mean"),
        (WEIGHTS | {"decoder.seg_layers.2.weight": torch.ones(3)}, "it has decoder.seg_layers.2.weight"),
        (WEIGHTS | {"encoder.stages.0.0.convs.0.all_modules.0.bias": torch.ones(4)}, "is not the same as encoder"),
        (WEIGHTS | {"decoder.encoder.stages.0.0.convs.0.conv.bias": torch.ones(4)}, "is not the same as encoder"),
        (WEIGHTS | {HEAD: torch.ones(4, 4, 1, 1)}, r"decoder.seg_layers.1.weight has the shape \(4, 4, 1, 1\)"),
        (Peer(RESIDUAL_FLAT).weights, "it has encoder.stem"),
        (Peer(FLAT, inputs=2).weights, r"encoder.stages.0.0.convs.0.conv.weight has the shape \(4, 2, 3, 1\)"),
    ],
)
def test_weights_of_another_network_are_refused(results, output, weights, problem):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {0: weights}, trainer="nnUNetTrainerBN")
    with pytest.raises(ModelError, match=rf"fold_0/checkpoint_final\.pth: .*{problem}.*nnUNetTrainerBN"):
        import_nnunet(results, output)
    assert not list(output.parent.glob("*model*"))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_compiled_and_distributed_networks(results, output, prefix):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {0: {prefix + name: WEIGHTS[name] for name in WEIGHTS}})
    import_nnunet(results, output)


def test_half_precision_becomes_single(results, output):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {0: {name: WEIGHTS[name].half() for name in WEIGHTS}})
    description = imported(results, output)
    network = load_network(description.plan, "2d", output / description.members[0].weights[0])
    assert torch.equal(network.head.weight, WEIGHTS[HEAD].half().float())


def test_folds(results, output, tmp_path):
    description = plans({"2d": configuration(FLAT)})
    write(results, description, "2d", {fold: Peer(FLAT, seed=fold) for fold in (0, 2, 10)})
    write(results, description, "2d", {"all": Peer(FLAT)})
    write(results, description, "2d", {0: Peer(FLAT), 1: Peer(FLAT, seed=1)}, file="checkpoint_best.pth")
    (results / "fold_3").mkdir()
    (results / "fold_4").touch()
    names = [f"weights/2d_fold_{fold}.safetensors" for fold in (0, 1, 2, 10)]
    found = imported(results, output)
    assert list(found.members[0].weights) == names
    for fold, name in zip((0, 1, 2, 10), names, strict=True):
        network = load_network(found.plan, "2d", output / name)
        assert torch.equal(network.head.weight, Peer(FLAT, seed=fold).weights[HEAD])
    some = imported(results, tmp_path / "some", folds=(2, 0))
    assert list(some.members[0].weights) == [names[0], names[2]]
    assert some.inputs_digest != found.inputs_digest
    for folds in ((0, 3), ()):
        with pytest.raises(ModelError, match="there is no checkpoint of the folds"):
            import_nnunet(results, tmp_path / "none", folds=folds)


def test_all_is_a_fold_where_there_is_no_other(results, output):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {"all": Peer(FLAT)})
    assert imported(results, output).members[0].weights == ("weights/2d_fold_all.safetensors",)


def test_folds_of_two_kinds_are_refused(results, output):
    description = plans({"2d": configuration(FLAT)})
    write(results, description, "2d", {0: Peer(FLAT)}, axes=(0, 1))
    write(results, description, "2d", {1: Peer(FLAT)}, axes=(0,))
    with pytest.raises(ModelError, match=r"fold_1.*mirrored along"):
        import_nnunet(results, output)


def test_unfinished_and_other_folders(results, output, tmp_path):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {})
    with pytest.raises(ModelError, match=r"no fold has a checkpoint_final\.pth"):
        import_nnunet(results, output)
    with pytest.raises(ModelError, match="Name one of the folders in it: nnUNetTrainer__nnUNetPlans__3d_fullres"):
        import_nnunet(results.parent, output)
    with pytest.raises(ModelError, match="is no results folder"):
        import_nnunet(tmp_path / "missing", output)
    (results / "plans.json").write_text("{")
    write(tmp_path / "other", plans({}), "2d", {0: Peer(FLAT)})
    (tmp_path / "other" / "plans.json").write_text("{")
    with pytest.raises(ModelError, match=r"plans\.json: is not readable JSON"):
        import_nnunet(tmp_path / "other", output)
    (tmp_path / "other" / "dataset.json").unlink()
    (tmp_path / "other" / "plans.json").write_text(json.dumps(plans({})))
    with pytest.raises(ModelError, match=r"dataset\.json: there is no such file"):
        import_nnunet(tmp_path / "other", output)


def test_an_existing_model_stays(results, output):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {0: Peer(FLAT)})
    output.mkdir()
    (output / "mine").touch()
    with pytest.raises(UsageError, match="is there already"):
        import_nnunet(results, output)
    assert [path.name for path in output.iterdir()] == ["mine"]


def cascade(folder, **changes):
    """The results of both stages; `changes` are made to the plans of the first."""
    configurations = {
        "3d_lowres": configuration(RESIDUAL_SOLID, spacing=[6.0, 2.0, 1.5]) | {"next_stage": "3d_cascade_fullres"},
        "3d_fullres": configuration(SOLID),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    description = plans(configurations, (1, 0, 2))
    low = description | {"configurations": configurations | {"3d_lowres": configurations["3d_lowres"] | changes}}
    write(folder / "nnUNetTrainer__P__3d_lowres", low, "3d_lowres", {0: Peer(RESIDUAL_SOLID), 1: Peer(RESIDUAL_SOLID)})
    fine = Peer(SOLID, inputs=3)
    return write(folder / "nnUNetTrainer__P__3d_cascade_fullres", description, "3d_cascade_fullres", {0: fine}), fine


def test_a_cascade_brings_its_first_stage(tmp_path, output):
    folder, fine = cascade(tmp_path / "Dataset999_Test")
    description = imported(folder, output)
    assert description.name == "3d_cascade"
    assert [(member.configuration, len(member.weights)) for member in description.stages] == [("3d_lowres", 2)]
    assert [(member.configuration, len(member.weights)) for member in description.members] == [("3d_cascade", 1)]
    found = description.plan.configurations
    assert (found["3d_cascade"].previous, found["3d_lowres"].previous) == ("3d_lowres", None)
    assert (found["3d_lowres"].spacing, found["3d_cascade"].spacing) == ((2.0, 6.0, 1.5), (1.0, 3.0, 0.75))
    volume = np.random.default_rng(3).normal(size=(3, 16, 8, 24))
    np.testing.assert_allclose(logits(output, description, volume), peer_logits(fine, volume, (1, 0, 2)), atol=1e-10)
    Model.open(output, "cpu")


def test_the_first_stage_alone(tmp_path, output):
    folder, _ = cascade(tmp_path / "Dataset999_Test")
    assert imported(folder.parent / "nnUNetTrainer__P__3d_lowres", output).name == "3d_lowres"


def test_a_cascade_needs_its_first_stage(tmp_path, output):
    folder, _ = cascade(tmp_path / "Dataset999_Test")
    with pytest.raises(ModelError, match=r"3d_lowres: there is no checkpoint of the folds|no checkpoint"):
        import_nnunet(folder, output, folds=(1,))
    low = folder.parent / "nnUNetTrainer__P__3d_lowres"
    low.rename(folder.parent / "elsewhere")
    with pytest.raises(ModelError, match=r"needs its first stage in .*nnUNetTrainer__P__3d_lowres"):
        import_nnunet(folder, output)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"normalization_schemes": ["NoNormalization"]}, "its first stage has a different normalization"),
        ({"previous_stage": "3d_fullres"}, "is itself a cascade"),
    ],
)
def test_stages_that_do_not_go_together(tmp_path, output, changes, problem):
    folder, _ = cascade(tmp_path / "Dataset999_Test", **changes)
    with pytest.raises(ModelError, match=problem):
        import_nnunet(folder, output)


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        {"spacings": [[1, 1, 1]]},
        {"spacings": [[1, 1, 1]], "shapes_after_crop": []},
        {"spacings": [], "shapes_after_crop": []},
        {"spacings": [["a", 1, 1]], "shapes_after_crop": [[4, 4, 4]]},
        {"spacings": [[math.nan] * 3], "shapes_after_crop": [[4, 4, 4]]},
        {"spacings": [[1, 1]], "shapes_after_crop": [[4, 4]]},
        {"spacings": 3, "shapes_after_crop": 4},
    ],
    ids=str,
)
def test_a_fingerprint_that_says_nothing_is_passed_over(results, output, facts):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {0: Peer(FLAT)})
    if facts is not None:
        (results / "dataset_fingerprint.json").write_text(json.dumps(facts))
    assert imported(results, output).trained_on is None


def test_nnunets_fingerprint_says_what_the_model_was_trained_on(results, output):
    write(results, plans({"2d": configuration(FLAT)}), "2d", {0: Peer(FLAT)})
    facts = {"spacings": [[4.0, 1.0, 1.0], [5.0, 0.5, 1.5]], "shapes_after_crop": [[10, 90, 80], [12, 100, 60]]}
    (results / "dataset_fingerprint.json").write_text(json.dumps(facts))
    known = imported(results, output).trained_on
    assert [(span.low, span.high) for span in known.spacing_mm] == [(0.5, 1.0), (1.0, 1.5), (4.0, 5.0)]
    assert [(span.low, span.high) for span in known.extent_mm] == [(40.0, 50.0), (60.0, 80.0), (90.0, 90.0)]
    warned = []

    class Ear(Listener):
        def warn(self, text):
            warned.append(text)

    model = Model.open(output, "cpu", backend="torch", listener=Ear())
    image = np.random.default_rng(0).normal(size=(10, 40, 40))
    model.predict(image, (4.0, 2.0, 2.0))
    assert warned == []
    model.predict(image[:, :8, :8], (0.004, 0.002, 0.002))
    assert "the spacing is 0.002 x 0.002 x 0.004 mm" in warned[0]
