"""escnn's side of the comparison of steerable networks: the network of one of our files, built of its
modules (bench/steerable.py drives it). Stages as in bench/steerable_worker.cpp."""

import argparse
import json
import re
import sys
import time
import tomllib
from pathlib import Path

import torch
from escnn import gspaces, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))


def gspace_of(name):
    match = re.fullmatch(r"([CD])(\d+)", name)
    if match:
        make = gspaces.rot2dOnR2 if match[1] == "C" else gspaces.flipRot2dOnR2
        return make(int(match[2]))
    make = {"SO(2)": gspaces.rot2dOnR2, "O(2)": gspaces.flipRot2dOnR2}[name]
    return make(-1, maximum_frequency=6)


def representations(gspace, words):
    """escnn's representations of our fields: [(number, representation, frequency of "<L" or None)]."""
    out = []
    for word in [words] if isinstance(words, str) else words:
        count, kind = word.split(" ")
        if kind == "trivial":
            out.append((int(count), gspace.trivial_repr, None))
        elif kind == "regular":
            out.append((int(count), gspace.regular_repr, None))
        elif kind.startswith("<"):
            band = int(kind[1:])
            group = gspace.fibergroup
            out.append((int(count), group.spectral_regular_representation(*group.bl_irreps(band)), band))
        else:
            raise ValueError(f"no counterpart of {word!r}")
    return out


class Pool(torch.nn.Module):
    """From fields to one number for each channel."""

    def forward(self, x):
        x = x.tensor if isinstance(x, nn.GeometricTensor) else x
        return x.mean((2, 3))


class Network(torch.nn.Module):
    def __init__(self, file):
        super().__init__()
        table = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        self.input = table["input"]
        channels, modules, self.of_input, fields = self.input[0], [], None, None
        for layer in table["layer"]:
            kind = layer["type"]
            if kind == "steerable_conv":
                if fields is None:
                    gspace = gspace_of(layer["group"])
                    fields = nn.FieldType(gspace, channels * [gspace.trivial_repr])
                    self.of_input = fields
                own = representations(gspace, layer["out"])
                to = nn.FieldType(gspace, [r for n, r, _ in own for _ in range(n)])
                modules.append(nn.R2Conv(fields, to, layer["kernel"], padding=layer.get("padding", 0)))
                fields = to
            elif kind == "relu" and fields is not None:
                modules.append(nn.ReLU(fields))
            elif kind == "fourier":
                (count, _, band), = own
                modules.append(nn.FourierPointwise(
                    gspace, count, gspace.fibergroup.bl_irreps(band), function="p_relu",
                    type="regular", N=layer["samples"]))
                if modules[-1].in_type != fields:
                    raise ValueError(f"escnn's FourierPointwise takes {modules[-1].in_type}, not {fields}")
            elif kind in ("maxpool", "avgpool") and fields is not None:
                pool = nn.PointwiseMaxPool2D if kind == "maxpool" else nn.PointwiseAvgPool2D
                modules.append(pool(fields, layer["kernel"], layer["kernel"]))
            elif kind == "field_pool":
                modules.append(nn.GroupPooling(fields))
                fields = modules[-1].out_type
            elif kind == "global_avgpool":
                modules.append(Pool())
                channels = fields.size if fields is not None else channels
            elif kind == "linear":
                modules.append(torch.nn.Linear(channels, layer["out"]))
            elif kind == "conv":
                modules.append(torch.nn.Conv2d(channels, layer["out"], layer["kernel"],
                                               padding=layer.get("padding", 0)))
                channels = layer["out"]
            elif kind == "relu":
                modules.append(torch.nn.ReLU())
            else:
                pool = torch.nn.MaxPool2d if kind == "maxpool" else torch.nn.AvgPool2d
                modules.append(pool(layer["kernel"]))
        self.modules_in_turn = torch.nn.ModuleList(modules)

    def forward(self, x):
        if self.of_input is not None:
            x = nn.GeometricTensor(x, self.of_input)
        for module in self.modules_in_turn:
            if isinstance(module, torch.nn.Linear):
                x = x.to(module.weight.dtype)  # GroupPooling gives float32 in any case
            x = module(x)
        return x


def main():
    from job import serve  # imports our reader of network files
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    start = time.perf_counter(), time.process_time()
    network = Network(options.network)
    built = {"seconds": time.perf_counter() - start[0], "cpu": time.process_time() - start[1],
             "value": sum(p.numel() for p in network.parameters())}
    x = torch.randn(options.batch, *network.input)
    y = torch.randint(10, (options.batch,))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.0)
    loss_of = torch.nn.CrossEntropyLoss()

    def train():
        network.train()
        optimiser.zero_grad()
        loss_of(network(x), y).backward()
        optimiser.step()

    def evaluate():
        if network.training:
            network.eval()
        with torch.no_grad():
            return network(x).sum()

    def expand():
        network.train()
        with torch.no_grad():
            for module in network.modules_in_turn:
                if isinstance(module, nn.R2Conv):
                    module.expand_parameters()

    print(json.dumps({"built": built}), flush=True)
    serve({"train": train, "eval": evaluate, "expand": expand})


if __name__ == "__main__":
    main()
