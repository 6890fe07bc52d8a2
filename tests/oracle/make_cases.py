"""Writes tiny cases for `compare_evidence.py`: one folder each with network.toml,
weights.safetensors (float64), train.safetensors, test.safetensors and case.json (its flags).

    python tests/oracle/make_cases.py FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
import evariste  # noqa: E402

MLP = """input = [5]
layer = [
  { type = "linear", out = 4 },
  { type = "tanh" },
  { type = "linear", out = 3 },
]
"""

# Stride, circular padding, an asymmetric kernel, no bias in one layer.
CNN = """input = [2, 6, 6]
layer = [
  { type = "conv", out = 3, kernel = 3, stride = 2, padding = 1, padding_mode = "circular" },
  { type = "relu" },
  { type = "conv", out = 2, kernel = [1, 2], bias = false },
  { type = "global_avgpool" },
  { type = "linear", out = 3 },
]
"""

# The mixture of design.md in small: both pathways from the same input, then a residual layer.
SUM = """input = [2, 4, 4]
layer = [
  { type = "sum", of = [
    [
      { type = "conv", out = 2, kernel = 3, padding = 1, padding_mode = "circular" },
      { type = "maxpool", kernel = 2 },
    ],
    { type = "fc", out = 2, stride = 2 },
  ] },
  { type = "tanh" },
  { type = "residual", layer = [
    { type = "conv", out = 2, kernel = 3, padding = 1 },
    { type = "silu" },
  ] },
  { type = "flatten" },
  { type = "linear", out = 3 },
]
"""

FACTORED = """input = [2, 4, 4]
layer = [
  { type = "factored_fc", out = 3, stride = 2 },
  { type = "softplus" },
  { type = "flatten" },
  { type = "linear", out = 3 },
]
"""

POLYPHASE = """input = [1, 6, 6]
layer = [
  { type = "sum", of = [
    [
      { type = "conv", out = 2, kernel = 3, padding = 1, padding_mode = "circular" },
      { type = "polyphase", stride = 2 },
    ],
    { type = "fc", out = 2, stride = 2 },
  ] },
  { type = "relu" },
  { type = "global_avgpool" },
  { type = "linear", out = 3 },
]
"""

GROUPED = """input = [2, 5, 5]
layer = [
  { type = "conv", out = 4, kernel = 3, groups = 2, padding = 1 },
  { type = "gelu" },
  { type = "avgpool", kernel = 2, padding = 1 },
  { type = "conv", out = 2, kernel = 2, dilation = 2 },
  { type = "flatten" },
  { type = "linear", out = 3, bias = false },
]
"""

NORMS = """input = [2, 12]
layer = [
  { type = "conv1d", out = 4, kernel = 3, stride = 2, padding = 2, dilation = 2 },
  { type = "groupnorm", groups = 2 },
  { type = "elu" },
  { type = "maxpool", kernel = 2 },
  { type = "flatten" },
  { type = "layernorm" },
  { type = "linear", out = 3 },
]
"""

CASES = {
    "mlp": (MLP, {"likelihood": "classification"}),
    "mlp-regression": (MLP, {"likelihood": "regression", "noise": 0.7}),
    "mlp-bernoulli": (MLP, {"likelihood": "bernoulli"}),
    "cnn": (CNN, {"likelihood": "classification"}),
    "cnn-regression": (CNN, {"likelihood": "regression", "noise": 1.3}),
    "sum": (SUM, {"likelihood": "classification"}),
    "sum-bernoulli": (SUM, {"likelihood": "bernoulli"}),
    "factored": (FACTORED, {"likelihood": "classification"}),
    "factored-regression": (FACTORED, {"likelihood": "regression", "noise": 0.5}),
    "grouped": (GROUPED, {"likelihood": "classification"}),
    "norms": (NORMS, {"likelihood": "classification"}),
    "polyphase": (POLYPHASE, {"likelihood": "classification"}),
}


def write_case(folder, text, flags, seed):
    """Weights and inputs are normal draws; labels are drawn from the model itself, so that the
    likelihood is neither saturated nor at chance."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network.toml").write_text(text, encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    network = evariste.load_network(folder / "network.toml").double().eval()
    with torch.no_grad():
        for p in network.parameters():
            fan_in = p.shape[1:].numel() if p.dim() > 1 else 1
            scale = 1.2 / fan_in**0.5 if p.dim() > 1 else 0.3
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    evariste.save_weights(network, folder / "weights.safetensors")
    for name, n in (("train", 12), ("test", 7)):
        x = torch.randn(n, *network.input_shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            f = network(x)
        if flags["likelihood"] == "classification":
            y = torch.multinomial(torch.softmax(f, 1), 1, generator=generator)[:, 0]
        elif flags["likelihood"] == "bernoulli":
            y = torch.bernoulli(torch.sigmoid(f), generator=generator)
        else:
            y = f + flags["noise"] * torch.randn(f.shape, generator=generator, dtype=torch.float64)
        save_file({"x": x, "y": y}, str(folder / f"{name}.safetensors"))
    (folder / "case.json").write_text(json.dumps(flags) + "\n", encoding="utf-8")


def make_cases(folder):
    for seed, (name, (text, flags)) in enumerate(CASES.items()):
        write_case(Path(folder) / name, text, flags, seed + 1)
    return [Path(folder) / name for name in CASES]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_cases.py FOLDER")
    for case in make_cases(sys.argv[1]):
        print(case)
