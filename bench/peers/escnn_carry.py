"""Carries networks of escnn over to ours: the same filters, the same outputs.

    build/bin/steerable_worker --network NET.toml --batch 1 --threads 1 --save fresh.safetensors
    build/peers/bin/python bench/peers/escnn_carry.py --network NET.toml --fresh fresh.safetensors \\
        --out carried.safetensors

The filters of escnn's random network are written in our basis (that of fresh.safetensors) by least
squares, field by field; `residual` is what is left of them, relative, and so says whether both bases
span the same kernels. The outputs are compared on random images, by our reader of network files.
"""

import argparse
import sys
from pathlib import Path

import torch
from escnn import nn
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
import evariste  # noqa: E402
from escnn_network import Network  # noqa: E402


def in_basis(kernel, out_fields, in_fields, basis):
    """Weights [out fields, in fields N] of a filter [C_out, C_in, k, k], basis [N, d_out, d_in, k, k],
    and the relative residual."""
    size_out, size_in = basis.shape[1:3]
    blocks = (kernel.reshape(out_fields, size_out, in_fields, size_in, *kernel.shape[2:])
              .transpose(1, 2).reshape(out_fields * in_fields, -1))
    matrix = basis.reshape(len(basis), -1)
    found = torch.linalg.lstsq(matrix.T, blocks.T).solution.T
    residual = ((found @ matrix - blocks).norm() / blocks.norm()).item()
    return found.reshape(out_fields, in_fields * len(basis)), residual


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--fresh", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    theirs = Network(options.network).double()
    for parameter in theirs.parameters():  # biases too, which start at 0
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    theirs.eval()
    weights = load_file(options.fresh)
    for place, module in enumerate(theirs.modules_in_turn):
        if isinstance(module, torch.nn.Linear):
            weights[f"{place}.weight"] = module.weight.data
            weights[f"{place}.bias"] = module.bias.data
        if not isinstance(module, nn.R2Conv):
            continue
        with torch.no_grad():
            kernel, bias = module.expand_parameters()
        basis = weights[f"{place}.basis"].double()
        counts = [kernel.shape[axis] // basis.shape[axis + 1] for axis in (0, 1)]
        weights[f"{place}.weight"], residual = in_basis(kernel, *counts, basis)
        each = bias.reshape(counts[0], -1)
        of = weights.get(f"{place}.bias_basis")
        weights[f"{place}.bias"] = each[:, 0].clone() if of is None else (each @ of.double()).flatten()
        print(f"layer {place}: {tuple(kernel.shape)} in {len(basis)} kernels a pair of fields, residual {residual:.1e}")
    ours = evariste.load_network(options.network)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, options.out)
    evariste.load_weights(ours, options.out)
    ours = ours.double().eval()
    x = torch.randn(20, *theirs.input, dtype=torch.float64)
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"outputs of 20 images: largest relative difference {error:.1e}")
    sys.exit(error > 1e-5)


if __name__ == "__main__":
    main()
