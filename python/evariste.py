"""Network files of Évariste <-> torch modules, weights as safetensors, run files as xarray.

    net = load_network("net.toml")             # a torch.nn.Sequential of the layers in the file
    load_weights(net, "weights.safetensors")
    save_network(net, (3, 32, 32), "copy.toml")
    run = open_run("results/.../run.h5")["blocks"].prior_precision.plot()

A network file lists the layers of `torch.nn.Sequential`; parameters carry the names of its
state_dict: `0.weight`, `3.0.weight` in the body of a residual, `0.0.weight` and `0.1.weight` in the
pathways of a sum, `0.1.0.weight` where the second pathway is itself a list of layers.
Shapes below: B batch, C channels, H, W image sides, X = H W input pixels, D output channels.
"""

import difflib
import json
import math
import tomllib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

__all__ = ["Bias", "FC", "FactoredFC", "GlobalAvgPool", "Network", "NetworkError", "Polyphase",
           "Residual", "Scale", "Sum", "load_network", "load_weights", "named_tensors", "open_run",
           "save_network", "save_weights"]


class NetworkError(ValueError):
    """A network file or module that cannot be read or written; says where and what would do."""


# ---------------------------------------------------------------- layers that torch does not have

class Network(nn.Sequential):
    """The layers of a network file; `input_shape` is its `input`, without the batch."""

    def __init__(self, layers, input_shape):
        super().__init__(*layers)
        self.input_shape = tuple(input_shape)


class Residual(nn.Sequential):
    """y = x + body(x), the body being the layers in turn."""

    def forward(self, x):
        return x + super().forward(x)


class Sum(nn.Module):
    """y = scale * sum of the pathways of x; scale = 1 / K for K pathways unless given."""

    def __init__(self, pathways, scale=None):
        super().__init__()
        for i, pathway in enumerate(pathways):
            self.add_module(str(i), pathway)
        self.scale = 1.0 / len(self._modules) if scale is None else float(scale)

    def forward(self, x):
        return self.scale * sum(pathway(x) for pathway in self.children())


class GlobalAvgPool(nn.Module):
    """[B, C, ...] -> [B, C], the mean over all positions."""

    def forward(self, x):
        return x.flatten(2).mean(2)


class Polyphase(nn.Module):
    """Subsampling by 2 that commutes with shifts: of the four phases x[:, :, i::2, j::2] a sample
    keeps the one with the largest maximum entry over channels and space. Ties go to the first of
    (0,0), (1,0), (0,1), (1,1); the first index is the row offset. [B, C, H, W] -> [B, C, H/2, W/2].
    """

    phases = ((0, 0), (1, 0), (0, 1), (1, 1))

    def forward(self, x):
        stacked = torch.stack([x[:, :, i::2, j::2] for i, j in self.phases], 1)
        kept = stacked.detach().flatten(2).amax(2).argmax(1)  # argmax returns the first of equals
        return stacked[torch.arange(len(x), device=x.device), kept]


class FC(nn.Module):
    """Dense map of images: y = W vec(x) + b viewed [D, H/stride, W/stride].
    weight [D H' W', C H W], bias [D H' W']. Starts as torch's Linear, with bias 0."""

    def __init__(self, in_shape, out, stride=1, bias=True):
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.out_shape = (out, in_shape[1] // stride, in_shape[2] // stride)
        self.stride = stride
        fan_in = math.prod(in_shape)
        self.weight = _uniform((math.prod(self.out_shape), fan_in), 1 / math.sqrt(fan_in))
        if bias:
            self.bias = nn.Parameter(torch.zeros(math.prod(self.out_shape)))
        else:
            self.register_parameter("bias", None)

    def forward(self, x):
        return F.linear(x.flatten(1), self.weight, self.bias).unflatten(1, self.out_shape)


class FactoredFC(nn.Module):
    """Dense map of images whose six-index kernel is V(y,d,c) U(d,c,x), linear in x:
      z[b,c,d] = sum_x U[d,c,x] x[b,c,x] + bias_U[d]
      y[b,d,y] = sum_c V[y,d,c] z[b,c,d] + bias_V[y].
    U [D, C X], bias_U [D], V [Y, D C], bias_V [Y] with Y = H/stride W/stride."""

    def __init__(self, in_shape, out, stride=1):
        super().__init__()
        channels, height, width = in_shape
        self.in_shape = tuple(in_shape)
        self.out_shape = (out, height // stride, width // stride)
        self.stride = stride
        pixels, kept = height * width, math.prod(self.out_shape[1:])
        # Unit variance is preserved at z and at y: U(+-sqrt(3/fan)) has variance 1/fan.
        self.U = _uniform((out, channels * pixels), math.sqrt(3 / pixels))
        self.bias_U = nn.Parameter(torch.zeros(out))
        self.V = _uniform((kept, out * channels), math.sqrt(3 / channels))
        self.bias_V = nn.Parameter(torch.zeros(kept))

    def forward(self, x):
        out, channels = self.out_shape[0], self.in_shape[0]
        u = self.U.unflatten(1, (channels, -1))
        v = self.V.unflatten(1, (out, channels))
        z = torch.einsum("dcx,bcx->bcd", u, x.flatten(2)) + self.bias_U
        y = torch.einsum("ydc,bcd->bdy", v, z) + self.bias_V
        return y.unflatten(2, self.out_shape[1:])


class Bias(nn.Module):
    """y = x + b with one scalar: bias [1], starts at 0."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x + self.bias


class Scale(nn.Module):
    """y = w x with one scalar: weight [1], starts at 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.weight


def _uniform(shape, bound):
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


# ---------------------------------------------------------------- the layer types of the file

REQUIRED = object()
_TYPES = {}  # type -> (keys with their defaults, builder (keys, shape, where) -> (module, shape))
_GEOMETRY = {"kernel": REQUIRED, "stride": 1, "padding": 0, "dilation": 1}
_CONV = {"out": REQUIRED, **_GEOMETRY, "groups": 1, "bias": True, "padding_mode": "zeros"}
_POOL = {"kernel": REQUIRED, "stride": None, "padding": 0}  # stride: the kernel's


def _layer(type_name, **keys):
    def register(build):
        _TYPES[type_name] = (keys, build)
        return build
    return register


@_layer("linear", out=REQUIRED, bias=True)
def _linear(k, shape, where):
    return nn.Linear(shape[-1], k["out"], bias=k["bias"]), (*shape[:-1], k["out"])


def _conv(k, shape, where, dims, module):
    _expect_rank(shape, dims + 1, where)
    channels, groups = shape[0], k["groups"]
    if channels % groups or k["out"] % groups:
        raise NetworkError(f"{where}: groups = {groups} must divide the {channels} input and "
                           f"{k['out']} output channels")
    if k["padding_mode"] not in ("zeros", "circular"):
        raise NetworkError(f'{where}: padding_mode = "{k["padding_mode"]}" is not known; '
                           'use "zeros" or "circular"')
    g = {key: _sides(k[key], dims, f"{where}.{key}") for key in _GEOMETRY}
    if k["padding_mode"] == "circular" and any(p > s for p, s in zip(g["padding"], shape[1:])):
        raise NetworkError(f"{where}: circular padding {list(g['padding'])} is larger than the "
                           f"image {list(shape[1:])}")
    sides = _window(shape[1:], g["kernel"], g["stride"], g["padding"], g["dilation"], where)
    conv = module(channels, k["out"], g["kernel"], g["stride"], g["padding"], g["dilation"],
                  groups, k["bias"], k["padding_mode"])
    return conv, (k["out"], *sides)


@_layer("conv", **_CONV)
def _conv2d(k, shape, where):
    return _conv(k, shape, where, 2, nn.Conv2d)


@_layer("conv1d", **_CONV)
def _conv1d(k, shape, where):
    return _conv(k, shape, where, 1, nn.Conv1d)


def _pool(k, shape, where, modules):
    dims = len(shape) - 1
    if dims not in (1, 2):
        raise NetworkError(f"{where}: needs [C, H, W] or [C, L], got {list(shape)}")
    kernel = _sides(k["kernel"], dims, f"{where}.kernel")
    stride = kernel if k["stride"] is None else _sides(k["stride"], dims, f"{where}.stride")
    padding = _sides(k["padding"], dims, f"{where}.padding")
    sides = _window(shape[1:], kernel, stride, padding, (1,) * dims, where)
    return modules[dims - 1](kernel, stride, padding), (shape[0], *sides)


@_layer("maxpool", **_POOL)
def _maxpool(k, shape, where):
    return _pool(k, shape, where, (nn.MaxPool1d, nn.MaxPool2d))


@_layer("avgpool", **_POOL)
def _avgpool(k, shape, where):
    return _pool(k, shape, where, (nn.AvgPool1d, nn.AvgPool2d))


@_layer("global_avgpool")
def _global_avgpool(k, shape, where):
    if len(shape) < 2:
        raise NetworkError(f"{where}: needs [C, H, W] or [C, L], got {list(shape)}")
    return GlobalAvgPool(), shape[:1]


@_layer("flatten")
def _flatten(k, shape, where):
    return nn.Flatten(), (math.prod(shape),)


@_layer("residual", layer=REQUIRED)
def _residual(k, shape, where):
    layers, out = _build_all(k["layer"], shape, f"{where}.layer")
    if out != shape:
        raise NetworkError(f"{where}: the body maps {list(shape)} to {list(out)}; "
                           "x + body(x) needs equal shapes")
    return Residual(*layers), shape


@_layer("sum", of=REQUIRED, scale=None)
def _sum(k, shape, where):
    pathways, outs = [], []
    if not k["of"]:
        raise NetworkError(f"{where}.of: a sum needs at least one pathway")
    for i, entry in enumerate(k["of"]):
        at = f"{where}.of[{i}]"
        if isinstance(entry, list):
            layers, out = _build_all(entry, shape, at)
            pathway = nn.Sequential(*layers)
        else:
            pathway, out = _build(entry, shape, at)
        pathways.append(pathway)
        outs.append(out)
        if out != outs[0]:
            raise NetworkError(f"{at}: gives {list(out)}, the first pathway gives {list(outs[0])}")
    return Sum(pathways, k["scale"]), outs[0]


def _check_stride(k, shape, where):
    _expect_rank(shape, 3, where)
    if k["stride"] < 1 or shape[1] % k["stride"] or shape[2] % k["stride"]:
        raise NetworkError(f"{where}: stride = {k['stride']} must divide {list(shape[1:])}")


@_layer("fc", out=REQUIRED, stride=1, bias=True)
def _fc(k, shape, where):
    _check_stride(k, shape, where)
    module = FC(shape, k["out"], k["stride"], k["bias"])
    return module, module.out_shape


@_layer("factored_fc", out=REQUIRED, stride=1)
def _factored_fc(k, shape, where):
    _check_stride(k, shape, where)
    module = FactoredFC(shape, k["out"], k["stride"])
    return module, module.out_shape


@_layer("polyphase", stride=2)
def _polyphase(k, shape, where):
    if k["stride"] != 2:
        raise NetworkError(f"{where}: stride = {k['stride']}; polyphase knows stride 2 only")
    _check_stride(k, shape, where)
    return Polyphase(), (shape[0], shape[1] // 2, shape[2] // 2)


@_layer("batchnorm", eps=1e-5, momentum=0.1, affine=True)
def _batchnorm(k, shape, where):
    module = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}.get(len(shape))
    if module is None:
        raise NetworkError(f"{where}: needs [C], [C, L] or [C, H, W], got {list(shape)}")
    return module(shape[0], k["eps"], k["momentum"], k["affine"]), shape


@_layer("layernorm", eps=1e-5, affine=True)  # over the whole sample: weight [C, H, W]
def _layernorm(k, shape, where):
    return nn.LayerNorm(shape, k["eps"], k["affine"]), shape


@_layer("groupnorm", groups=REQUIRED, eps=1e-5, affine=True)
def _groupnorm(k, shape, where):
    if shape[0] % k["groups"]:
        raise NetworkError(f"{where}: groups = {k['groups']} must divide {shape[0]} channels")
    return nn.GroupNorm(k["groups"], shape[0], k["eps"], k["affine"]), shape


def _same_shape(type_name, make, **keys):
    _TYPES[type_name] = (keys, lambda k, shape, where: (make(**k), shape))


_same_shape("dropout", nn.Dropout, p=0.5)
_same_shape("relu", nn.ReLU)
_same_shape("tanh", nn.Tanh)
_same_shape("sigmoid", nn.Sigmoid)
_same_shape("gelu", nn.GELU, approximate="none")
_same_shape("elu", nn.ELU, alpha=1.0)
_same_shape("silu", nn.SiLU)
_same_shape("softplus", nn.Softplus, beta=1.0, threshold=20.0)
_same_shape("bias", Bias)
_same_shape("scale", Scale)


def _expect_rank(shape, rank, where):
    if len(shape) != rank:
        kind = {2: "[C, L]", 3: "[C, H, W]"}[rank]
        raise NetworkError(f"{where}: needs an input {kind}, got {list(shape)}")


def _sides(value, dims, where):
    """3 or [3, 5] -> (3, 3) or (3, 5)."""
    sides = tuple(value) if isinstance(value, (list, tuple)) else (value,) * dims
    if len(sides) != dims or not all(type(s) is int and s >= 0 for s in sides):
        raise NetworkError(f"{where}: expected a whole number or {dims} of them, got {value}")
    return sides


def _window(sides, kernel, stride, padding, dilation, where):
    """Output sides of a sliding window, floor division as in torch."""
    if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1:
        raise NetworkError(f"{where}: kernel, stride and dilation must be at least 1")
    out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1
                for n, k, s, p, d in zip(sides, kernel, stride, padding, dilation))
    if min(out) < 1:
        raise NetworkError(f"{where}: kernel {list(kernel)} does not fit into {list(sides)}")
    return out


# ---------------------------------------------------------------- network file -> module

def load_network(path):
    """The torch module of a network file. Parameters are fresh, float32; see `load_weights`.
    `input` and `layer` stand at the top, or under [network] as in an experiment's file."""
    with open(path, "rb") as file:
        try:
            document = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise NetworkError(f"{path}: {error}") from None
    if "layer" not in document and isinstance(document.get("network"), dict):
        document = document["network"]
    keys = _check_keys(document, {"input": REQUIRED, "layer": REQUIRED}, str(path))
    shape = keys["input"]
    if not (isinstance(shape, list) and shape and all(type(s) is int and s > 0 for s in shape)):
        raise NetworkError(f"{path}: input = {shape}; expected [C, H, W] or [D]")
    layers, _ = _build_all(keys["layer"], tuple(shape), f"{path}: layer")
    return Network(layers, shape)


def _build_all(entries, shape, where):
    if not isinstance(entries, list):
        raise NetworkError(f"{where}: expected a list of layers, got {entries!r}")
    layers = []
    for i, entry in enumerate(entries):
        module, shape = _build(entry, shape, f"{where}[{i}]")
        layers.append(module)
    return layers, shape


def _build(entry, shape, where):
    if not isinstance(entry, dict):
        raise NetworkError(f"{where}: expected a table {{ type = ... }}, got {entry!r}")
    if "type" not in entry:
        raise NetworkError(f"{where}: has no type; known types: {', '.join(sorted(_TYPES))}")
    type_name = entry["type"]
    if type_name not in _TYPES:
        raise NetworkError(f'{where}: type = "{type_name}" is not known'
                           f"{_nearest(type_name, _TYPES)}")
    keys, build = _TYPES[type_name]
    where = f"{where} ({type_name})"
    rest = {key: value for key, value in entry.items() if key != "type"}
    return build(_check_keys(rest, keys, where), shape, where)


def _check_keys(table, keys, where):
    for key in table:
        if key not in keys:
            raise NetworkError(f"{where}: unknown key '{key}'{_nearest(key, keys)}")
    for key, default in keys.items():
        if default is REQUIRED and key not in table:
            raise NetworkError(f"{where}: key '{key}' is missing")
    values = {}
    for key, default in keys.items():
        value = table.get(key, default)
        if key in ("out", "groups") and not (type(value) is int and value > 0):
            raise NetworkError(f"{where}: {key} = {value!r}; expected a positive whole number")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise NetworkError(f"{where}: {key} = {value!r}; expected true or false")
        if type(default) is float:
            if type(value) not in (int, float):
                raise NetworkError(f"{where}: {key} = {value!r}; expected a number")
            value = float(value)
        values[key] = value
    return values


def _nearest(name, known):
    close = difflib.get_close_matches(str(name), known, 1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known)) or 'none'}"


# ---------------------------------------------------------------- module -> network file

_PLAIN = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.SiLU: "silu",
          GlobalAvgPool: "global_avgpool", Polyphase: "polyphase", Bias: "bias", Scale: "scale"}


def _is_list(module):
    """A chain of layers with no meaning of its own, unlike Residual."""
    return type(module) in (nn.Sequential, Network)


def _chain(module):
    """The layers of a chain in order: chains within chains are opened, identities left out."""
    if not _is_list(module):
        return [] if type(module) is nn.Identity else [module]
    return [layer for child in module for layer in _chain(child)]


def _refuse(module, why):
    raise NetworkError(f"{type(module).__name__}: {why}; a network file cannot say that")


def _require(module, **values):
    for name, value in values.items():
        if getattr(module, name) != value:
            _refuse(module, f"{name} = {getattr(module, name)} (only {value} is known)")


def _padding(module):
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    if module.padding == "same":
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
        if any(r % 2 for r in reach):
            _refuse(module, 'padding = "same" with an even kernel is not symmetric')
        return tuple(r // 2 for r in reach)
    return module.padding


def _table(module):
    """The network file's table for one torch module, defaults included."""
    kind = type(module)
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if kind is nn.Linear:
        return {"type": "linear", "out": module.out_features, "bias": module.bias is not None}
    if kind in (nn.Conv1d, nn.Conv2d):
        if module.padding_mode not in ("zeros", "circular"):
            _refuse(module, f'padding_mode = "{module.padding_mode}"')
        return {"type": "conv" if kind is nn.Conv2d else "conv1d", "out": module.out_channels,
                "kernel": module.kernel_size, "stride": module.stride, "padding": _padding(module),
                "dilation": module.dilation, "groups": module.groups,
                "bias": module.bias is not None, "padding_mode": module.padding_mode}
    if kind in (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d):
        is_max = kind in (nn.MaxPool1d, nn.MaxPool2d)
        _require(module, ceil_mode=False)
        if is_max:
            _require(module, dilation=1, return_indices=False)
        else:
            _require(module, count_include_pad=True)
            if getattr(module, "divisor_override", None) is not None:
                _refuse(module, "divisor_override is set")
        return {"type": "maxpool" if is_max else "avgpool", "kernel": module.kernel_size,
                "stride": None if module.stride == module.kernel_size else module.stride,
                "padding": module.padding}
    if kind in (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d):
        if module.output_size not in (1, (1,), (1, 1)):
            _refuse(module, f"output_size = {module.output_size} (only 1 is known)")
        return {"type": "global_avgpool"}
    if kind is nn.Flatten:
        _require(module, start_dim=1, end_dim=-1)
        return {"type": "flatten"}
    if kind is nn.Dropout:
        return {"type": "dropout", "p": float(module.p)}
    if kind is nn.GELU:
        return {"type": "gelu", "approximate": module.approximate}
    if kind is nn.ELU:
        return {"type": "elu", "alpha": float(module.alpha)}
    if kind is nn.Softplus:
        return {"type": "softplus", "beta": float(module.beta),
                "threshold": float(module.threshold)}
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        if module.momentum is None or not module.track_running_stats:
            _refuse(module, "needs running statistics with a momentum")
        return {"type": "batchnorm", "eps": module.eps, "momentum": float(module.momentum),
                "affine": module.affine}
    if kind is nn.LayerNorm:
        if module.elementwise_affine and module.bias is None:
            _refuse(module, "bias = False")
        return {"type": "layernorm", "eps": module.eps, "affine": module.elementwise_affine}
    if kind is nn.GroupNorm:
        return {"type": "groupnorm", "groups": module.num_groups, "eps": module.eps,
                "affine": module.affine}
    if kind is Residual:
        return {"type": "residual",
                "layer": [_table(m) for child in module for m in _chain(child)]}
    if kind is Sum:
        scale = None if module.scale == 1.0 / len(list(module.children())) else module.scale
        return {"type": "sum", "scale": scale,
                "of": [[_table(m) for m in _chain(p)] if _is_list(p) else _table(p)
                       for p in module.children()]}
    if kind is FC:
        return {"type": "fc", "out": module.out_shape[0], "stride": module.stride,
                "bias": module.bias is not None}
    if kind is FactoredFC:
        return {"type": "factored_fc", "out": module.out_shape[0], "stride": module.stride}
    raise NetworkError(f"{kind.__name__}: no layer type of a network file is this module"
                       f"{_nearest(kind.__name__.lower(), _TYPES)}")


def _value(value, indent):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (dict, list)):
        inner = "".join(f"{indent}  {_value(v, indent + '  ')},\n" for v in value)
        return f"[\n{inner}{indent}]"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(v, indent) for v in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{k} = {_value(v, indent)}' for k, v in _spoken(value))} }}"
    return repr(value)


def _spoken(table):
    """The entries that the file needs: no defaults, one number where both sides are equal."""
    defaults = _TYPES[table["type"]][0]
    for key, value in table.items():
        if isinstance(value, tuple):
            value = value[0] if len(set(value)) == 1 else list(value)
        if key == "type" or value != defaults.get(key, REQUIRED) or defaults[key] is REQUIRED:
            if value is not None:
                yield key, value


def save_network(module, input_shape, path):
    """Writes the network file of `module` for inputs of `input_shape` (without the batch).

    Plain nn.Sequential in nn.Sequential is opened and nn.Identity left out, so numbers may shift;
    `named_tensors`, `save_weights` and `load_weights` count the same way. The written file is read
    back, and refused if it does not compute the same outputs as `module`."""
    layers = _chain(module)
    lines = "".join(f"  {_value(_table(layer), '  ')},\n" for layer in layers)
    text = f"input = {list(input_shape)}\nlayer = [\n{lines}]\n"
    _check_same(module, text, tuple(input_shape), path)
    Path(path).write_text(text, encoding="utf-8")


def _check_same(module, text, input_shape, path):
    built, _ = _build_all(tomllib.loads(text)["layer"], input_shape, f"{path}: layer")
    copy = Network(built, input_shape)
    _copy(copy, {name: tensor.detach() for name, tensor in named_tensors(module)}, path,
          match_type=True)
    like = next((t for _, t in named_tensors(module) if t.is_floating_point()), torch.zeros(()))
    x = torch.rand(2, *input_shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype)
    x = x.to(like.device)
    modes = [(m, m.training) for m in module.modules()]
    try:
        with torch.no_grad():
            ours, theirs = copy.eval()(x), module.eval()(x)
    finally:
        for m, training in modes:
            m.training = training
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, 1e-4, 1e-5, equal_nan=True):
        raise NetworkError(f"{path}: the layers as written give {list(ours.shape)} with other "
                           f"values than the module's {list(theirs.shape)}; nothing was written")


# ---------------------------------------------------------------- weights

def named_tensors(module):
    """[(name in the network file, tensor)] of all parameters and buffers, in order. For what
    `load_network` returns these are the names of its state_dict."""
    named = []

    def visit(layer, prefix):
        for store in (layer._parameters, layer._buffers):
            named.extend((prefix + name, t) for name, t in store.items() if t is not None)
        if _is_list(layer):
            children = _chain(layer)
        elif type(layer) is Residual:
            children = [m for child in layer for m in _chain(child)]
        else:
            children = layer.children()
        for i, child in enumerate(children):
            visit(child, f"{prefix}{i}.")

    visit(module if _is_list(module) else nn.Sequential(module), "")
    return named


def save_weights(module, path):
    """All parameters and buffers as safetensors under the names of the network file."""
    save_file({name: tensor.detach().cpu().contiguous().clone()
               for name, tensor in named_tensors(module)}, str(path))


def load_weights(module, path):
    """Copies a safetensors file into `module`, in place, in the precision of the module (call
    `module.double()` before for float64). A missing or extra tensor and a wrong shape are errors.
    Returns the module."""
    _copy(module, load_file(str(path)), path)
    return module


def _copy(module, tensors, path, match_type=False):
    targets = dict(named_tensors(module))
    for name in tensors:
        if name not in targets:
            raise NetworkError(f"{path}: tensor '{name}' is not in the network"
                               f"{_nearest(name, targets)}")
    with torch.no_grad():
        for name, target in targets.items():
            if name not in tensors:
                if name.endswith("num_batches_tracked"):  # a counter that no output depends on
                    continue
                raise NetworkError(f"{path}: tensor '{name}' is missing"
                                   f"{_nearest(name, tensors)}")
            if target.shape != tensors[name].shape:
                raise NetworkError(f"{path}: tensor '{name}' is {list(tensors[name].shape)}; "
                                   f"the network has {list(target.shape)}")
            if match_type:
                target.data = tensors[name].clone()
            else:
                target.copy_(tensors[name])


# ---------------------------------------------------------------- run files

def open_run(path):
    """{group: xarray.Dataset} of a run file, or of the run.h5 in a run's folder:
    open_run("results/.../")["trace"].log_evidence. Nested groups are named by their path, as in
    "controls/map/trace". Everything is read at once, so the file may be replaced meanwhile."""
    import h5py
    import xarray

    path = Path(path)
    if path.is_dir():
        path = path / "run.h5"
    groups = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: groups.append(name) if isinstance(item, h5py.Group)
                        and any(isinstance(i, h5py.Dataset) for i in item.values()) else None)
    return {group: xarray.load_dataset(path, group=group, engine="h5netcdf")
            for group in groups}
