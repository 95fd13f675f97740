"""Mutations of the network."""

from __future__ import annotations

from tests.mutation.mutation import Mutation

PLANTED = [
    Mutation(
        "networks/unet.py",
        "coarse.insert(0, self.coarse_heads[level - 1](state))",
        "coarse.append(self.coarse_heads[level - 1](state))",
        "networks/test_unet.py learning/test_training.py",
        "coarse levels are weighted in reversed order",
        only="coarse or residual or deep or level or heads",
    ),
    Mutation(
        "networks/unet.py",
        "nn.init.zeros_(cast(torch.Tensor, module.second[1].weight))",
        "nn.init.ones_(cast(torch.Tensor, module.second[1].weight))",
        "networks/test_unet.py",
        "residual networks do not begin as nnU-Net's",
    ),
    Mutation(
        "networks/unet.py",
        "ConvBlock(topology, outputs, outputs, kernel, ones, active=False)",
        "ConvBlock(topology, outputs, outputs, kernel, ones)",
        "networks/test_unet.py interop/test_nnunet_model.py",
        "residual blocks have one activation too many",
    ),
    Mutation(
        "networks/unet.py",
        "torch.cat([self.ups[level](state), skips[level]], dim=1)",
        "torch.cat([skips[level], self.ups[level](state)], dim=1)",
        "interop/test_nnunet_model.py",
        "imported networks say something else",
    ),
    Mutation(
        "networks/unet.py",
        "torch.Generator().manual_seed(seed)",
        "torch.Generator().manual_seed(0)",
        "networks/test_unet.py",
        "another seed gives the same network",
    ),
    Mutation(
        "networks/unet.py",
        "nn.init.kaiming_normal_(module.weight, LEAKY_SLOPE",
        "nn.init.kaiming_uniform_(module.weight, LEAKY_SLOPE",
        "networks/test_initial_weights.py",
        "weights begin otherwise than in the paper [N2]",
    ),
    Mutation(
        "networks/unet.py",
        "                nn.init.kaiming_normal_(module.weight, LEAKY_SLOPE, generator=generator)\n",
        "                nn.init.kaiming_normal_(module.weight, LEAKY_SLOPE)\n",
        "networks/test_initial_weights.py",
        "the same seed gives another network each time",
    ),
    Mutation(
        "networks/unet.py",
        "                if module.bias is not None:\n                    nn.init.zeros_(module.bias)\n",
        "",
        "networks/test_initial_weights.py",
        "the same seed gives other biases each time",
    ),
    Mutation(
        "networks/unet.py",
        "range(1, len(self.decoder) - 1) if deep_supervision",
        "range(1, len(self.decoder)) if deep_supervision",
        "networks/test_unet.py learning/test_training.py",
        "the coarsest level has a loss, unlike in nnU-Net",
        only="coarse or shallow or level",
    ),
    Mutation(
        "networks/unet.py",
        '        if not key.startswith("coarse_heads.")\n',
        "",
        "learning/test_training.py",
        "models of nnU-Net's recipe cannot be opened",
        only="momentum_and_coarse",
    ),
    Mutation(
        "networks/unet.py",
        'pooled = level > 0 and topology.downsampling == "max"',
        "pooled = level > 0",
        "networks/test_unet.py interop/test_nnunet_model.py",
        "imported networks pool in place of striding",
    ),
    Mutation(
        "networks/unet.py",
        "_AVERAGE[topology.dimension](stride, stride)",
        "_POOL[topology.dimension](stride, stride)",
        "networks/test_unet.py interop/test_nnunet_model.py",
        "skip connections of imported networks take the maximum",
    ),
    Mutation(
        "networks/unet.py",
        "kind(topology, width, width, kernel, ones) for",
        "kind(topology, width, width, ones, ones) for",
        "networks/test_unet.py",
        "all blocks of a level but the first have kernels of one voxel",
    ),
    Mutation(
        "networks/unet.py",
        "self.ups.append(_TRANSPOSED[dimension](width, above, stride, stride, bias=topology.bias))",
        "self.ups.append(_TRANSPOSED[dimension](width, above, stride, stride))",
        "networks/test_unet.py",
        "networks have weights that the paper's do not have",
    ),
    Mutation(
        "networks/unet.py",
        "self.activation(self.second(self.first(image)) + self.projection(self.pool(image)))",
        "self.activation(self.second(self.first(image)))",
        "networks/test_unet.py",
        "residual networks have no skip connections",
    ),
]
