"""Network files of Évariste <-> torch modules, weights as safetensors, run files as xarray.

    net = load_network("net.toml")             # a torch.nn.Sequential of the layers in the file
    net = load_network("results/.../config.toml", classes=10)  # of an experiment, task of 10 labels
    load_weights(net, "weights.safetensors")
    save_network(net, (3, 32, 32), "copy.toml")
    run = open_run("results/.../run.h5")["blocks"].prior_precision.plot()

A network file lists the layers of `torch.nn.Sequential`; parameters carry the names of its
state_dict: `0.weight`, `3.0.weight` in the body of a residual or a repeat, `0.0.weight` and `0.1.weight` in the
pathways of a sum, `0.1.0.weight` where the second pathway is itself a list of layers.
Shapes below: B batch, C channels, H, W image sides, X = H W input pixels, D output channels.
"""

import copy
import difflib
import json
import math
import re
import tomllib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

__all__ = ["AnchorMap", "Bias", "BlurPool", "Concat", "DiscMask", "FC", "FactoredFC", "FieldDropout", "FieldNorm", "FieldPool", "FieldTransform", "Fourier",
           "Gated", "GlobalAvgPool", "GroupConv", "GroupLift",
           "GroupPool", "Network", "NetworkError", "NormActivation", "NormPool", "Polyphase", "Repeat", "RepresentationNorm", "Residual", "Restrict", "Scale",
           "SparseConv", "SparseFC", "SteerableConv", "Sum", "TensorProduct", "build_network", "load_network", "load_weights",
           "named_tensors", "open_run", "plain_network", "save_network", "save_weights"]


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


class Repeat(nn.Sequential):
    """y = body(body(..(x))): the layers in turn, `times` times with the same weights."""

    def __init__(self, *layers, times):
        super().__init__(*layers)
        self.times = times

    def forward(self, x):
        for _ in range(self.times):
            x = super().forward(x)
        return x


class Sum(nn.Module):
    """y = scale * sum of the pathways of x; scale = 1 / K for K pathways unless given."""

    def __init__(self, pathways, scale=None):
        super().__init__()
        for i, pathway in enumerate(pathways):
            self.add_module(str(i), pathway)
        self.scale = 1.0 / len(self._modules) if scale is None else float(scale)

    def forward(self, x):
        return self.scale * sum(pathway(x) for pathway in self.children())


class Concat(nn.Module):
    """The pathways of x one behind the other along the channels."""

    def __init__(self, pathways):
        super().__init__()
        for i, pathway in enumerate(pathways):
            self.add_module(str(i), pathway)

    def forward(self, x):
        return torch.cat([pathway(x) for pathway in self.children()], 1)


class BlurPool(nn.Module):
    """Mean over a Gaussian window at every stride-th position of images or volumes, zeros beyond the edges:
    on each axis w[d] ~ exp(-d^2 / (2 sigma^2)), |d| <= round(3 sigma)."""

    def __init__(self, sigma=0.66, stride=2, padding=None):
        super().__init__()
        self.sigma, self.stride = sigma, stride
        self.reach = math.floor(3 * sigma + 0.5)
        self.padding = self.reach if padding is None else padding

    def forward(self, x):
        w = (-0.5 * (torch.arange(-self.reach, self.reach + 1, dtype=torch.float64) / self.sigma).square()).exp()
        w, dims = (w / w.sum()).to(x), x.dim() - 2
        for axis in range(dims):
            each = [[size if a == axis else other for a in range(dims)]
                    for size, other in ((len(w), 1), (self.stride, 1), (self.padding, 0))]
            conv = F.conv2d if dims == 2 else F.conv3d
            x = conv(x, w.view(1, 1, *each[0]).expand(x.shape[1], 1, *each[0]), None, *each[1:], groups=x.shape[1])
        return x


class DiscMask(nn.Module):
    """y = m x, m = 1 in the disc (ball) of a square (cubic) grid of sides S less a margin and a Gaussian edge:
    c = (S - 1)/2, t = (c (1 - margin/100))^2, m = min(1, exp((t - r) / sigma^2)), r the squared distance."""

    def __init__(self, margin=1.0, sigma=2.0):
        super().__init__()
        self.margin, self.sigma = margin, sigma

    def forward(self, x):
        centre, dims = (x.shape[-1] - 1) / 2, x.dim() - 2
        place = (torch.arange(x.shape[-1], dtype=torch.float64) - centre).square()
        square = sum(place.view([-1 if a == axis else 1 for a in range(dims)]) for axis in range(dims))
        inner = (centre * (1 - self.margin / 100)) ** 2
        return x * ((inner - square) / self.sigma**2).exp().clamp(max=1).to(x)


class GlobalAvgPool(nn.Module):
    """[B, C, ...] -> [B, C], the mean over all positions."""

    def forward(self, x):
        return x.flatten(2).mean(2)


class Polyphase(nn.Module):
    """Subsampling by s that commutes with shifts: of the s x s phases x[:, :, i::s, j::s] a sample
    keeps the one with the largest maximum entry over channels and space. Ties go to the first of
    (0,0), (1,0), (0,1), (1,1); the first index is the row offset. [B, C, H, W] -> [B, C, H/s, W/s].
    """

    def __init__(self, stride=2):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        s = self.stride
        stacked = torch.stack([x[:, :, i::s, j::s] for j in range(s) for i in range(s)], 1)
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

    def __init__(self, in_shape, out, stride=1, bias=True, *, out_sides=None, bias_v=None):
        super().__init__()
        channels, height, width = in_shape
        self.in_shape = tuple(in_shape)
        self.out_shape = (out, *(out_sides or (height // stride, width // stride)))
        self.stride = stride
        pixels, kept = height * width, math.prod(self.out_shape[1:])
        # Unit variance is preserved at z and at y: U(+-sqrt(3/fan)) has variance 1/fan.
        self.U = _uniform((out, channels * pixels), math.sqrt(3 / pixels))
        self.register_parameter("bias_U", nn.Parameter(torch.zeros(out)) if bias else None)
        self.V = _uniform((kept, out * channels), math.sqrt(3 / channels))
        has_v = bias if bias_v is None else bias_v
        self.register_parameter("bias_V", nn.Parameter(torch.zeros(kept)) if has_v else None)

    def forward(self, x):
        out, channels = self.out_shape[0], self.in_shape[0]
        u = self.U.unflatten(1, (channels, -1))
        v = self.V.unflatten(1, (out, channels))
        z = torch.einsum("dcx,bcx->bcd", u, x.flatten(2))
        if self.bias_U is not None:
            z = z + self.bias_U
        y = torch.einsum("ydc,bcd->bdy", v, z)
        if self.bias_V is not None:
            y = y + self.bias_V
        return y.unflatten(2, self.out_shape[1:])


def _grid(height, width):
    """Centred points (y, x), row by row, [H W, 2]."""
    sides = [torch.linspace(-(n - 1) / 2, (n - 1) / 2, n, dtype=torch.float64)
             for n in (height, width)]
    return torch.cartesian_prod(*sides)


class _Anchored(nn.Module):
    """Interpolation Psi [J, H W] from J anchors to a grid (van der Ouderaa et al. 2023, sec. 4.1):
      Psi = (K_ZZ + nu^2 I)^-1 K_ZT, kappa(a, b) = (1 + 1e-6) exp(-omega^2 |a - b|^2 / 2), nu = 0.01
    for anchors Z and grid points T. Buffer anchors [J, 2] in pixels from the centre; log_omega is a
    parameter where it is to be learnt, else a buffer."""

    def __init__(self, sides, anchors, omega, learn_omega):
        super().__init__()
        self.sides, self.ratio, self.omega = tuple(sides), anchors, omega  # omega at the start
        points = math.prod(sides)
        count = max(1, round(anchors * points))  # of two to the even one
        reach = torch.tensor([(n - 1) / 2 for n in sides], dtype=torch.float64)
        places = (_grid(*sides) if count == points else
                  (2 * torch.rand(count, 2, dtype=torch.float64) - 1) * reach)
        self.register_buffer("anchors", places.float())
        start = torch.tensor(math.log(omega))
        if learn_omega:
            self.log_omega = nn.Parameter(start)
        else:
            self.register_buffer("log_omega", start)

    def psi(self):
        z, t = self.anchors.double(), _grid(*self.sides).to(self.anchors.device)
        square = (2 * self.log_omega.double()).exp()

        def kappa(a, b):
            distances = (a[:, None] - b[None]).square().sum(2)
            return (1 + 1e-6) * (-0.5 * square * distances).exp()

        noise = 1e-4 * torch.eye(len(z), dtype=z.dtype, device=z.device)
        return torch.linalg.solve(kappa(z, z) + noise, kappa(z, t)).to(self.anchors.dtype)

    def keys(self):
        return {"anchors": self.ratio, "omega": self.omega,
                "learn_omega": isinstance(self.log_omega, nn.Parameter)}


class SparseConv(_Anchored):
    """Convolution whose filters are given at anchors: w[d,c] = u[d,c] Psi; weight u [D, C, J]."""

    def __init__(self, channels, out, kernel, padding=0, padding_mode="zeros", anchors=0.5,
                 omega=1.0, learn_omega=False, bias=True):
        super().__init__((kernel, kernel), anchors, omega, learn_omega)
        self.kernel, self.padding, self.padding_mode = kernel, padding, padding_mode
        bound = 1 / math.sqrt(channels * self.psi().square().sum().item())
        self.weight = _uniform((out, channels, len(self.anchors)), bound)
        self.register_parameter("bias", _uniform((out,), bound) if bias else None)

    def forward(self, x):
        w = (self.weight @ self.psi()).unflatten(2, self.sides)
        return F.conv2d(_padded(x, self.padding, self.padding_mode), w, self.bias)


class AnchorMap(_Anchored):
    """Channel by channel [B, C, H, W] -> [B, C, J, 1], x Psi^T, or back to pixels, v Psi."""

    def __init__(self, sides, anchors=0.5, omega=1.0, learn_omega=False, to_pixels=False):
        super().__init__(sides, anchors, omega, learn_omega)
        self.to_pixels = to_pixels

    def forward(self, x):
        if self.to_pixels:
            return (x.flatten(2) @ self.psi()).unflatten(2, self.sides)
        return (x.flatten(2) @ self.psi().t()).unsqueeze(3)


class SparseFC(nn.Sequential):
    """FactoredFC between anchors: pixels to anchors, the factored map without bias_V, to pixels."""

    def __init__(self, in_shape, out, stride=1, anchors=0.5, omega=1.0, learn_omega=False,
                 bias=True):
        sides = tuple(n // stride for n in in_shape[1:])
        first = AnchorMap(in_shape[1:], anchors, omega, learn_omega)
        last = AnchorMap(sides, anchors, omega, learn_omega, to_pixels=True)
        counts = [len(m.anchors) for m in (first, last)]
        factored = FactoredFC((in_shape[0], counts[0], 1), out, 1, bias,
                              out_sides=(counts[1], 1), bias_v=False)
        with torch.no_grad():  # unit variance again, seen at anchors and at pixels
            factored.U /= math.sqrt(first.psi().square().sum().item() / counts[0])
            factored.V /= math.sqrt(last.psi().square().sum().item() / math.prod(sides))
        super().__init__(first, factored, last)
        self.out_shape, self.stride = (out, *sides), stride


class GroupLift(nn.Module):
    """[B, C, H, W] -> [B, 4 C, H, W]: four copies, the image being the same in all frames."""

    def forward(self, x):
        return x.repeat(1, 4, 1, 1)


class GroupPool(nn.Module):
    """The largest of four copies, [B, 4 C, H, W] -> [B, C, H, W]."""

    def forward(self, x):
        return x.unflatten(1, (4, -1)).amax(1)


class GroupConv(nn.Module):
    """Group convolution for p4 in the image's frame, [B, 4 C, H, W] -> [B, 4 D, H', W']:
      F'_k = bias + sum_j (rot90^k psi_{(j-k) mod 4}) * F_j, only j = k without `mix`.
    weight psi [D, C/groups, 4 or 1, k, k], bias [D]."""

    def __init__(self, channels, out, kernel=3, padding=0, padding_mode="zeros", groups=1,
                 mix=True, bias=True):
        super().__init__()
        self.kernel, self.padding, self.padding_mode = kernel, padding, padding_mode
        self.groups, self.mix = groups, mix
        copies = 4 if mix else 1
        bound = 1 / math.sqrt(channels // groups * copies * kernel**2)
        self.weight = _uniform((out, channels // groups, copies, kernel, kernel), bound)
        self.register_parameter("bias", _uniform((out,), bound) if bias else None)

    def forward(self, x):
        copies = _padded(x, self.padding, self.padding_mode).unflatten(1, (4, -1)).unbind(1)
        out = []
        for k in range(4):
            terms = [(copies[j], (j - k) % 4) for j in range(4)] if self.mix else [(copies[k], 0)]
            out.append(sum(F.conv2d(c, self.weight[:, :, r].rot90(k, (2, 3)), groups=self.groups)
                           for c, r in terms))
            if self.bias is not None:
                out[-1] = out[-1] + self.bias[:, None, None]
        return torch.cat(out, 1)


class SteerableConv(nn.Module):
    """Steerable convolution, the kernel between field kinds b <- a being sum_n w_n basis_b_a[n]:
      weight [n_b, sum_a n_a N], basis [N, d_b, d_a, k, k], bias [n_b] or [n_b q] times bias_basis [d_b, q]
    over dims = 2 axes, or 3 with basis [N, d_b, d_a, k, k, k]
    (weight_b, bias_b ... where the output has several kinds). What kernels a group has is known to the
    C++ library only, and is in the weights' file: without one this module has no parameters and
    refuses to be called. With a degree the basis is scaled by it (src/nn/degree.h). fields: [(number, channels
    of one)] of each kind. transposed: as nn.ConvTranspose2d with
    the weight kernel.transpose(0, 1)."""

    def __init__(self, in_fields, out_fields, kernel=3, stride=1, padding=0, padding_mode="zeros",
                 dilation=1, bias=True, dims=2, transposed=False, output_padding=0, **keys):
        super().__init__()
        self.dims, self.transposed, self.output_padding = dims, transposed, output_padding
        self.in_fields, self.out_fields = in_fields, out_fields
        self.kernel, self.stride, self.dilation, self.has_bias = kernel, stride, dilation, bias
        self.padding, self.padding_mode, self.keys = padding, padding_mode, keys

    def take_shapes(self, tensors):
        """Parameters and buffers of the sizes in a weights' file, {own name: tensor}."""
        for name, tensor in tensors.items():
            known = name.split("_")[0] in ("weight", "bias", "basis", "degree")
            if not known or hasattr(self, name):
                continue
            if name.startswith("basis_copies"):
                self.register_buffer(name, torch.zeros(tensor.shape, dtype=torch.int64))
            elif name.split("_")[0] == "basis" or name.startswith("bias_basis"):
                self.register_buffer(name, torch.zeros(tensor.shape, dtype=torch.float64))
            else:
                self.register_parameter(name, nn.Parameter(torch.zeros(tensor.shape)))

    def plain(self):
        """Kernel [C_out, C_in, k, ...] and bias [C_out] of the plain convolution that this one is."""
        if not self._parameters:
            raise NetworkError("a steerable convolution has no kernels before load_weights: they are "
                               "in the weights' file")
        single = len(self.in_fields) == 1 and len(self.out_fields) == 1
        rows, biases = [], []
        for b, (count, size) in enumerate(self.out_fields):
            end = "" if len(self.out_fields) == 1 else f"_{b}"
            weight, at, columns = getattr(self, "weight" + end), 0, []
            for a, (fields, channels) in enumerate(self.in_fields):
                basis = getattr(self, "basis" if single else f"basis_{b}_{a}", None)
                if basis is None:  # no kernel leads from one to the other
                    columns.append(weight.new_zeros(count * size, fields * channels,
                                                    *(self.kernel,) * self.dims))
                    continue
                if hasattr(self, "degree"):
                    basis = self._scaled(basis, "basis_copies" if single else f"basis_copies_{b}_{a}")
                w = weight[:, at:at + fields * len(basis)].unflatten(1, (fields, len(basis)))
                at += fields * len(basis)
                kernel = torch.einsum("ufn,noi...->uofi...", w, basis.to(w))
                columns.append(kernel.flatten(0, 1).flatten(1, 2))
            rows.append(torch.cat(columns, 1))
            bias, of = getattr(self, "bias" + end, None), getattr(self, "bias_basis" + end, None)
            if bias is None:
                biases.append(weight.new_zeros(count * size))
            elif of is None:
                biases.append(bias.repeat_interleave(size))
            else:
                biases.append((bias.unflatten(0, (count, -1)) @ of.to(bias).t()).flatten())
        return torch.cat(rows), torch.cat(biases)

    def _scaled(self, basis, copies):
        """The rows a of every copy of an irrep become sum_a' E[psi]_a'a B_a', E the mean under the degree."""
        degree, irreps = self.keys["degree"], self.keys["isotypic"]
        means = _expectations(self.keys["group"], degree, int(irreps[1:]) if irreps else degree, self.degree)
        rows, at = [], 0
        for number, mean in zip(getattr(self, copies).tolist(), means):
            size = len(mean)
            part = basis[at:at + number * size].to(mean).unflatten(0, (number, size))
            rows.append(torch.einsum("ab,ca...->cb...", mean, part).flatten(0, 1))
            at += number * size
        return torch.cat(rows)

    def forward(self, x):
        kernel, bias = self.plain()
        if self.transposed:
            conv = F.conv_transpose2d if self.dims == 2 else F.conv_transpose3d
            return conv(x, kernel.transpose(0, 1), bias, self.stride, self.padding, self.output_padding,
                        dilation=self.dilation)
        conv = F.conv2d if self.dims == 2 else F.conv3d
        return conv(_padded(x, self.padding, self.padding_mode), kernel, bias, self.stride,
                    dilation=self.dilation)


class FieldTransform(nn.Module):
    """A fixed linear map of each field, [B, fields d, ...] -> [B, fields e, ...]: basis_k [e, d] of each
    kind, from the weights' file."""

    def __init__(self, fields):
        super().__init__()
        self.fields = fields  # [number of each kind]

    def take_shapes(self, tensors):
        for name, tensor in tensors.items():
            if name.startswith("basis_") and not hasattr(self, name):
                self.register_buffer(name, torch.zeros(tensor.shape, dtype=torch.float64))

    def forward(self, x):
        if not self._buffers:
            raise NetworkError("a fourier layer has no kernels before load_weights: they are in the "
                               "weights' file")
        bases = [getattr(self, f"basis_{k}").to(x) for k in range(len(self.fields))]
        parts = x.split([n * b.shape[1] for n, b in zip(self.fields, bases)], 1)
        return torch.cat([torch.einsum("bfd...,ed->bfe...", part.unflatten(1, (n, -1)), b).flatten(1, 2)
                          for n, part, b in zip(self.fields, parts, bases)], 1)


class Restrict(FieldTransform):
    """Fields of a group as fields of a subgroup: basis_k x of each field, then channels in the order
    basis_order. Both are in the weights' file."""

    def __init__(self, fields, **keys):
        super().__init__(fields)
        self.keys = keys

    def take_shapes(self, tensors):
        super().take_shapes({name: t for name, t in tensors.items() if name != "basis_order"})
        if "basis_order" in tensors and not hasattr(self, "basis_order"):
            self.register_buffer("basis_order", torch.zeros_like(tensors["basis_order"]))

    def forward(self, x):
        if not self._buffers:
            raise NetworkError("a restrict layer has no kernels before load_weights: they are in the "
                               "weights' file")
        return super().forward(x)[:, self.basis_order.long()]


class Fourier(nn.Module):
    """y = A^+ h(A x): the function on a group whose coefficients a field holds, h of it at elements of
    the group, and coefficients again. Children: A, h, A^+."""

    def __init__(self, fields, activation, **keys):
        super().__init__()
        self.keys = {**keys, "activation": activation}
        self.add_module("0", FieldTransform(fields))
        self.add_module("1", _ACTIVATIONS[activation]())
        self.add_module("2", FieldTransform(fields))

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class Gated(nn.Module):
    """Fields times sigmoid of the last F of the trivial channels, F the number of the fields; h of the other
    trivial channels, which come first in the output. fields: [(number, channels of one, is trivial)]."""

    def __init__(self, fields, activation, **keys):
        super().__init__()
        self.fields, self.keys = fields, {**keys, "activation": activation}
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, x):
        parts = x.split([count * size for count, size, _ in self.fields], 1)
        scalars = torch.cat([p for p, (_, _, trivial) in zip(parts, self.fields) if trivial], 1)
        gated = [(p, n) for p, (n, _, trivial) in zip(parts, self.fields) if not trivial]
        counts = [n for _, n in gated]
        rest, *gates = scalars.split([scalars.shape[1] - sum(counts), *counts], 1)
        return torch.cat([self.activation(rest)] + [
            (p.unflatten(1, (n, -1)) * gate.sigmoid().unsqueeze(2)).flatten(1, 2)
            for (p, n), gate in zip(gated, gates)], 1)


class RepresentationNorm(nn.Module):
    """Batch normalisation of fields of any representation, [B, fields, d, T]: basis [d, q] holds its trivial irreps,
      mean = basis basis^T E[x], var = E|x - mean|^2 / d, y = weight (x - mean) / sqrt(var + eps) + basis bias.
    weight [fields], bias [fields q], running_mean [fields, q], running_var [fields]. Which irreps there are is
    known to the C++ library only: all of it is in the weights' file."""

    def __init__(self, eps, momentum, affine):
        super().__init__()
        self.eps, self.momentum, self.affine = eps, momentum, affine

    def take_shapes(self, tensors):
        for name, tensor in tensors.items():
            if hasattr(self, name):
                continue
            if name in ("weight", "bias"):
                self.register_parameter(name, nn.Parameter(torch.zeros(tensor.shape)))
            elif name in ("running_mean", "running_var", "num_batches_tracked", "basis"):
                dtype = {"num_batches_tracked": torch.int64, "basis": torch.float64}.get(name, torch.float32)
                self.register_buffer(name, torch.zeros(tensor.shape, dtype=dtype))

    def forward(self, x):
        if not self._buffers:
            raise NetworkError("a batchnorm of fields that are no permutations has no kernels before load_weights: "
                               "they are in the weights' file")
        basis = self.basis.to(x) if "basis" in self._buffers else x.new_zeros(x.shape[2], 0)
        if self.training:
            mean = x.mean((0, 3)) @ basis  # [fields, q]
            centred = x - (mean @ basis.t()).unsqueeze(2)
            var = centred.square().mean((0, 2, 3))
            with torch.no_grad():
                count = x.numel() / x.shape[1]
                if basis.shape[1]:
                    self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
                unbiased = var * count / max(1, count - basis.shape[1])
                self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
                self.num_batches_tracked += 1
        else:
            centred, var = x, self.running_var
            if basis.shape[1]:
                centred = x - (self.running_mean @ basis.t()).unsqueeze(2)
        y = centred * (var + self.eps).rsqrt().view(-1, 1, 1)
        if self.affine:
            y = y * self.weight.view(-1, 1, 1)
            if basis.shape[1]:
                y = y + (self.bias.unflatten(0, (-1, basis.shape[1])) @ basis.t()).unsqueeze(2)
        return y


class FieldNorm(nn.Module):
    """Batch normalisation of fields, one mean, variance, weight and bias for each: over the channels too where the
    group permutes them, else a RepresentationNorm. Children "0", "1" ... of the kinds; fields: [(number, channels
    of one, is a permutation)]."""

    def __init__(self, fields, eps, momentum, affine):
        super().__init__()
        self.fields = fields
        for k, (count, _, permutes) in enumerate(fields):
            self.add_module(str(k), nn.BatchNorm1d(count, eps, momentum, affine) if permutes else
                            RepresentationNorm(eps, momentum, affine))

    def forward(self, x):
        parts = x.split([count * size for count, size, _ in self.fields], 1)
        return torch.cat([norm(part.reshape(len(x), count, *(() if permutes else (size,)), -1)).reshape(part.shape)
                          for norm, part, (count, size, permutes) in zip(self.children(), parts, self.fields)], 1)


def _lengths(v):
    """Of [B, fields, d, ...]: |v| and 1/|v|, both 0 where |v| <= 1e-10."""
    square = v.square().sum(2)
    short = square <= 1e-20
    length = square.masked_fill(short, 1).sqrt()
    return length.masked_fill(short, 0), length.reciprocal().masked_fill(short, 0)


class NormActivation(nn.Module):
    """y = h(|x| + bias) x / |x| of every field, 0 where |x| <= 1e-10, and h of channels that do not transform; squash:
    x / (1 + |x|), without bias. bias [fields that transform], starts at 0; fields: [(number, channels of one, is
    trivial)]."""

    def __init__(self, fields, activation, bias=True, **keys):
        super().__init__()
        self.fields, self.has_bias, self.keys = fields, bias, {**keys, "activation": activation}
        self.activation = _OF_LENGTHS[activation]
        count = sum(n for n, _, trivial in fields if not trivial)
        self.register_parameter("bias", nn.Parameter(torch.zeros(count)) if bias and count else None)

    def forward(self, x):
        out, at = [], 0
        for part, (n, size, trivial) in zip(x.split([n * size for n, size, _ in self.fields], 1), self.fields):
            if trivial:
                out.append(self.activation(part))
                continue
            v = part.unflatten(1, (n, size))
            length, inverse = _lengths(v)
            if self.bias is not None:
                length = length + self.bias[at:at + n].view(-1, *(1,) * (length.dim() - 2))
                at += n
            out.append((v * (self.activation(length) * inverse).unsqueeze(2)).flatten(1, 2))
        return torch.cat(out, 1)


class NormPool(nn.Module):
    """The length of every field, [B, C, ...] -> [B, fields, ...]."""

    def __init__(self, fields, **keys):
        super().__init__()
        self.fields, self.keys = fields, keys

    def forward(self, x):
        parts = x.split([count * size for count, size in self.fields], 1)
        return torch.cat([_lengths(part.unflatten(1, (count, size)))[0]
                          for part, (count, size) in zip(parts, self.fields)], 1)


class TensorProduct(nn.Module):
    """[x, basis_k p] with the products p = x_0 x_0, x_0 x_1 ... x_1 x_1, x_1 x_2 ... of the components of every field,
    without x unless `keep`. basis_k [d (d + 1) / 2, d (d + 1) / 2] of each kind: from the weights' file."""

    def __init__(self, fields, keep=True, **keys):
        super().__init__()
        self.fields, self.keep, self.keys = fields, keep, keys

    take_shapes = FieldTransform.take_shapes

    def forward(self, x):
        if not self._buffers:
            raise NetworkError("a tensor_product layer has no kernels before load_weights: they are in the "
                               "weights' file")
        out = [x] if self.keep else []
        for k, (part, (n, size)) in enumerate(zip(x.split([n * size for n, size in self.fields], 1), self.fields)):
            v, (a, b) = part.unflatten(1, (n, size)), torch.triu_indices(size, size, device=x.device)
            products = v[:, :, a] * v[:, :, b]
            basis = getattr(self, f"basis_{k}").to(x)
            out.append(torch.einsum("bnp...,ep->bne...", products, basis).flatten(1, 2))
        return torch.cat(out, 1)


class FieldDropout(nn.Module):
    """Drops whole fields, all channels and pixels of one together; the others are divided by 1 - p. fields: [(number,
    channels of one)], None for channels that are no fields."""

    def __init__(self, p=0.5, fields=None):
        super().__init__()
        self.p, self.fields = p, fields

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        fields = self.fields or [(x.shape[1], 1)]
        sizes = torch.tensor([size for n, size in fields for _ in range(n)], device=x.device)
        kept = (torch.rand(len(x), len(sizes), device=x.device) >= self.p).to(x) / (1 - self.p)
        return x * kept.repeat_interleave(sizes, 1).view(*x.shape[:2], *(1,) * (x.dim() - 2))


class FieldPool(nn.Module):
    """The largest channel of every field, [B, C, ...] -> [B, fields, ...]."""

    def __init__(self, fields, **keys):
        super().__init__()
        self.fields, self.keys = fields, keys

    def forward(self, x):
        parts = x.split([count * size for count, size in self.fields], 1)
        return torch.cat([part.unflatten(1, (count, size)).amax(2)
                          for part, (count, size) in zip(parts, self.fields)], 1)


class _Fields(tuple):
    """A shape [C, ...] whose channels are fields of a group: .group, .kinds = ["2 regular", ...]."""


def _with_fields(shape, group, kinds):
    out = _Fields(shape)
    out.group, out.kinds = group, list(kinds)
    return out


def _padded(x, padding, mode):
    return F.pad(x, (padding,) * (2 * x.dim() - 4), "circular" if mode == "circular" else "constant")


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
FIELDS = object()  # required: "NUMBER KIND" or a list of such
_LARGEST = 2**31  # a size beyond it is a slip of the pen
_MOST = 2**30  # numbers in one weight, or in one sample between two layers
_MAKE_FIELDS = {"steerable_conv", "steerable_conv3d", "steerable_conv_transpose", "steerable_conv_transpose3d", "gated",
                "fourier", "field_pool", "norm_activation", "norm_pool", "tensor_product", "residual", "repeat", "sum", "concat", "restrict"}
_KEEP_FIELDS = {"batchnorm", "field_dropout", "blurpool", "mask", "upsample", "avgpool", "avgpool3d", "maxpool", "global_avgpool", "scale", "bias", "polyphase", "dropout", "relu",
                "tanh", "sigmoid", "silu", "gelu", "elu", "softplus"}  # the C++ reader refuses the rest
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
    if len(shape) > 2:
        raise NetworkError(f"{where}: needs an input [D] or [T, D], got {list(shape)}; a flatten "
                           "or global_avgpool layer makes one")
    _expect_size((k["out"], shape[-1]), f"{where}: weight")
    return nn.Linear(shape[-1], k["out"], bias=k["bias"]), (*shape[:-1], k["out"])


def _conv(k, shape, where, dims, module):
    _expect_rank(shape, dims + 1, where)
    channels, groups = shape[0], k["groups"]
    if channels % groups or k["out"] % groups:
        raise NetworkError(f"{where}: groups = {groups} must divide the {channels} input and "
                           f"{k['out']} output channels")
    _expect(k["padding_mode"] in ("zeros", "circular"), where, "padding_mode", k["padding_mode"],
            '"zeros" or "circular"')
    g = {key: _sides(k, key, dims, where) for key in _GEOMETRY}
    if k["padding_mode"] == "circular" and any(p > s for p, s in zip(g["padding"], shape[1:])):
        raise NetworkError(f"{where}: circular padding {list(g['padding'])} is larger than the "
                           f"image {list(shape[1:])}")
    sides = _window(shape[1:], g["kernel"], g["stride"], g["padding"], g["dilation"], where)
    _expect_size((k["out"], channels // groups, *g["kernel"]), f"{where}: weight")
    conv = module(channels, k["out"], g["kernel"], g["stride"], g["padding"], g["dilation"],
                  groups, k["bias"], k["padding_mode"])
    return conv, (k["out"], *sides)


@_layer("conv", **_CONV)
def _conv2d(k, shape, where):
    return _conv(k, shape, where, 2, nn.Conv2d)


@_layer("conv1d", **_CONV)
def _conv1d(k, shape, where):
    return _conv(k, shape, where, 1, nn.Conv1d)


@_layer("conv3d", **_CONV)
def _conv3d(k, shape, where):
    return _conv(k, shape, where, 3, nn.Conv3d)


def _conv_transpose(k, shape, where, dims, module):
    _expect_rank(shape, dims + 1, where)
    channels, groups = shape[0], k["groups"]
    if channels % groups or k["out"] % groups:
        raise NetworkError(f"{where}: groups = {groups} must divide the {channels} input and "
                           f"{k['out']} output channels")
    g = {key: _sides(k, key, dims, where) for key in (*_GEOMETRY, "output_padding")}
    sides = _transposed_window(shape[1:], g, where)
    _expect_size((k["out"], channels // groups, *g["kernel"]), f"{where}: weight")
    conv = module(channels, k["out"], g["kernel"], g["stride"], g["padding"], g["output_padding"],
                  groups, k["bias"], g["dilation"])
    return conv, (k["out"], *sides)


def _transposed_window(sides, g, where):
    """Output sides of a transposed convolution."""
    for o, s, d in zip(g["output_padding"], g["stride"], g["dilation"]):
        _expect(o < max(s, d), where, "output_padding", o, "less than stride or dilation")
    out = tuple((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in zip(
        sides, g["kernel"], g["stride"], g["padding"], g["dilation"], g["output_padding"]))
    if min(out) < 1:
        raise NetworkError(f"{where}: padding {list(g['padding'])} leaves nothing of the output for "
                           f"{list(sides)}")
    return out


_TRANSPOSED = {"out": REQUIRED, **_GEOMETRY, "output_padding": 0, "groups": 1, "bias": True}


@_layer("conv_transpose", **_TRANSPOSED)
def _conv_transpose2d(k, shape, where):
    return _conv_transpose(k, shape, where, 2, nn.ConvTranspose2d)


@_layer("conv_transpose3d", **_TRANSPOSED)
def _conv_transpose3d(k, shape, where):
    return _conv_transpose(k, shape, where, 3, nn.ConvTranspose3d)


def _expect_grid(shape, where):
    if len(shape) not in (3, 4):
        raise NetworkError(f"{where}: needs an input [C, H, W] or [C, D, H, W], got {list(shape)}")


@_layer("blurpool", sigma=0.66, stride=2, padding=None)
def _blurpool(k, shape, where):
    _expect_grid(shape, where)
    _expect(0 < k["sigma"] <= 1000, where, "sigma", k["sigma"], "0 < sigma <= 1000")
    padding = None if k["padding"] is None else _count(k["padding"], where, "padding", 0)
    module = BlurPool(k["sigma"], _count(k["stride"], where, "stride"), padding)
    dims, size = len(shape) - 1, 2 * module.reach + 1
    if 2 * module.padding > size:
        raise NetworkError(f"{where}: padding {module.padding} is more than half the window {size}")
    sides = _window(shape[1:], (size,) * dims, (module.stride,) * dims, (module.padding,) * dims, (1,) * dims,
                    f"{where}: a window of {size}")
    return module, (shape[0], *sides)


@_layer("upsample", size=None, scale=None, mode="linear")  # of torch with align_corners=False
def _upsample(k, shape, where):
    _expect_grid(shape, where)
    dims, scale, size = len(shape) - 1, k["scale"], k["size"]
    _expect(k["mode"] in ("linear", "nearest"), where, "mode", k["mode"], '"linear" or "nearest"')
    if size is None and scale is None:
        raise NetworkError(f"{where}: key 'size' or 'scale' is missing")
    if scale is not None:
        scales = scale if isinstance(scale, list) else [scale] * dims
        _expect(len(scales) == dims and all(type(s) in (int, float) and 0 < s <= 1e9 for s in scales), where,
                "scale", scale, f"a number above 0 or {dims} of them")
        sides = tuple(math.floor(n * s) for n, s in zip(shape[1:], scales))
        if min(sides) < 1:
            raise NetworkError(f"{where}: scale {scale} leaves nothing of the input {list(shape)}")
        scale = tuple(float(s) for s in scales)
    if size is not None:
        if scale is not None:
            _expect(_sides(k, "size", dims, where) == sides, where, "size", size, f"as scale says, {list(sides)}")
        sides = _sides(k, "size", dims, where)
    linear = k["mode"] == "linear"
    module = nn.Upsample(None if scale else sides, scale, ("bilinear" if dims == 2 else "trilinear") if linear
                         else "nearest", False if linear else None, True if scale else None)
    return module, (shape[0], *sides)


@_layer("mask", margin=1.0, sigma=2.0)
def _mask(k, shape, where):
    _expect_grid(shape, where)
    _expect(0 <= k["margin"] <= 100, where, "margin", k["margin"], "0 <= margin <= 100")
    _expect(k["sigma"] > 0, where, "sigma", k["sigma"], "a number above 0")
    if len(set(shape[1:])) > 1:
        raise NetworkError(f"{where}: a mask is a disc in a square or a ball in a cube: expected equal sides, "
                           f"got {list(shape)}")
    return DiscMask(k["margin"], k["sigma"]), shape


@_layer("avgpool3d", **_POOL)
def _avgpool3d(k, shape, where):
    _expect_rank(shape, 4, where)
    return _pool(k, shape, where, (None, None, nn.AvgPool3d))


def _pool(k, shape, where, modules):
    dims = len(shape) - 1
    if len(modules) <= 2 and dims not in (1, 2):
        raise NetworkError(f"{where}: needs [C, H, W] or [C, L], got {list(shape)}")
    kernel = _sides(k, "kernel", dims, where)
    stride = kernel if k["stride"] is None else _sides(k, "stride", dims, where)
    padding = _sides(k, "padding", dims, where)
    if any(2 * p > n for p, n in zip(padding, kernel)):
        raise NetworkError(f"{where}: padding {list(padding)} is more than half the kernel "
                           f"{list(kernel)}")
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
    layers, out = _build_all(_layers(k["layer"], f"{where}.layer"), shape, f"{where}.layer")
    if out != shape:
        raise NetworkError(f"{where}: the body maps {list(shape)} to {list(out)}; "
                           "x + body(x) needs equal shapes")
    return Residual(*layers), shape


@_layer("repeat", times=REQUIRED, layer=REQUIRED)
def _repeat(k, shape, where):
    times = _count(k["times"], where, "times")
    layers, out = _build_all(_layers(k["layer"], f"{where}.layer"), shape, f"{where}.layer")
    if out != shape:
        raise NetworkError(f"{where}: the body maps {list(shape)} to {list(out)}, which is no "
                           "input of the body again")
    return Repeat(*layers, times=times), shape


def _build_pathway(entry, shape, where):
    """A layer, or a list of layers in sequence."""
    if not isinstance(entry, list):
        return _build(entry, shape, where)
    layers, out = _build_all(entry, shape, where)
    return nn.Sequential(*layers), out


@_layer("sum", of=REQUIRED, scale=None)
def _sum(k, shape, where):
    scale, pathways, outs = k["scale"], [], []
    if scale is not None:
        scale = _number(scale, where, "scale")
        _expect(scale != 0, where, "scale", scale, "a number other than 0")
    for i, entry in enumerate(_layers(k["of"], f"{where}.of")):
        at = f"{where}.of[{i}]"
        pathway, out = _build_pathway(entry, shape, at)
        pathways.append(pathway)
        outs.append(out)
        if out != outs[0]:
            raise NetworkError(f"{at}: gives {list(out)}, the first pathway gives {list(outs[0])}")
    return Sum(pathways, scale), outs[0]


@_layer("concat", of=REQUIRED)
def _concat(k, shape, where):
    pathways, outs = [], []
    for i, entry in enumerate(_layers(k["of"], f"{where}.of")):
        pathway, out = _build_pathway(entry, shape, f"{where}.of[{i}]")
        pathways.append(pathway)
        outs.append(out)
        if out[1:] != outs[0][1:]:
            raise NetworkError(f"{where}: pathway {i} gives {list(out)}, pathway 0 gives {list(outs[0])}: channels "
                               "go one behind the other where all other sides are equal")
    whole = (sum(out[0] for out in outs), *outs[0][1:])
    if all(isinstance(out, _Fields) and out.group == getattr(outs[0], "group", None) for out in outs):
        whole = _with_fields(whole, outs[0].group, _joined(kind for out in outs for kind in out.kinds))
    return Concat(pathways), whole


def _joined(words):
    """"2 regular", "1 regular" -> "3 regular", where they are side by side."""
    out = []
    for word in words:
        count, kind = word.split(maxsplit=1)
        if out and out[-1][1] == kind:
            out[-1][0] += int(count)
        else:
            out.append([int(count), kind])
    return [f"{count} {kind}" for count, kind in out]


def _stride(k, shape, where, least=1):
    _expect_rank(shape, 3, where)
    stride = _count(k["stride"], where, "stride", least)
    if shape[1] % stride or shape[2] % stride:
        raise NetworkError(f"{where}: stride = {stride} must divide {list(shape[1:])}")
    return stride


@_layer("fc", out=REQUIRED, stride=1, bias=True)
def _fc(k, shape, where):
    stride = _stride(k, shape, where)
    pixels = shape[1] // stride * (shape[2] // stride)
    _expect_size((k["out"] * pixels, math.prod(shape)), f"{where}: weight")
    module = FC(shape, k["out"], stride, k["bias"])
    return module, module.out_shape


@_layer("factored_fc", out=REQUIRED, stride=1, bias=True)
def _factored_fc(k, shape, where):
    stride = _stride(k, shape, where)
    _expect_size((k["out"], math.prod(shape)), f"{where}: U")  # V is no larger
    module = FactoredFC(shape, k["out"], stride, k["bias"])
    return module, module.out_shape


def _anchors(k, where):
    ratio, omega = _number(k["anchors"], where, "anchors"), _number(k["omega"], where, "omega")
    _expect(0 < ratio <= 1, where, "anchors", ratio, "0 < anchors <= 1")
    _expect(omega > 0, where, "omega", omega, "a number above 0")
    return {"anchors": ratio, "omega": omega, "learn_omega": k["learn_omega"]}


def _square(k, shape, where, dims=2):
    """Kernel and padding of a convolution at stride 1 over square kernels, and its sides."""
    _expect_rank(shape, dims + 1, where)
    kernel = _count(k["kernel"], where, "kernel")
    padding, mode = _count(k["padding"], where, "padding", 0), k["padding_mode"]
    _expect(mode in ("zeros", "circular"), where, "padding_mode", mode, '"zeros" or "circular"')
    if mode == "circular" and padding > min(shape[1:]):
        raise NetworkError(f"{where}: circular padding {padding} is larger than the image "
                           f"{list(shape[1:])}")
    sides = _window(shape[1:], (kernel,) * dims, (1,) * dims, (padding,) * dims, (1,) * dims, where)
    return {"kernel": kernel, "padding": padding, "padding_mode": mode}, sides


_ANCHORS = {"anchors": 0.5, "omega": 1.0, "learn_omega": False}


@_layer("sparse_conv", out=REQUIRED, kernel=REQUIRED, padding=0, padding_mode="zeros", bias=True,
        **_ANCHORS)
def _sparse_conv(k, shape, where):
    geometry, sides = _square(k, shape, where)
    _expect_size((k["out"], shape[0], geometry["kernel"], geometry["kernel"]), f"{where}: weight")
    _expect_size((geometry["kernel"] ** 2,) * 2, f"{where}: distances")
    module = SparseConv(shape[0], k["out"], **geometry, **_anchors(k, where), bias=k["bias"])
    return module, (k["out"], *sides)


@_layer("sparse_fc", out=REQUIRED, stride=1, bias=True, **_ANCHORS)
def _sparse_fc(k, shape, where):
    stride = _stride(k, shape, where)
    _expect_size((k["out"], math.prod(shape)), f"{where}: U")
    _expect_size((math.prod(shape[1:]),) * 2, f"{where}: distances")
    module = SparseFC(shape, k["out"], stride, **_anchors(k, where), bias=k["bias"])
    return module, module.out_shape


def _copied_channels(shape, where):
    _expect_rank(shape, 3, where)
    if shape[0] % 4:
        raise NetworkError(f"{where}: needs an input [4 C, H, W], four copies of C channels, got "
                           f"{list(shape)}; a group_lift layer makes one")
    return shape[0] // 4


@_layer("group_lift")
def _group_lift(k, shape, where):
    _expect_rank(shape, 3, where)
    return GroupLift(), (4 * shape[0], *shape[1:])


@_layer("group_pool")
def _group_pool(k, shape, where):
    return GroupPool(), (_copied_channels(shape, where), *shape[1:])


@_layer("group_conv", out=REQUIRED, kernel=3, padding=0, padding_mode="zeros", groups=1, mix=True,
        bias=True)
def _group_conv(k, shape, where):
    channels = _copied_channels(shape, where)
    geometry, sides = _square(k, shape, where)
    kernel, groups = geometry["kernel"], k["groups"]
    _expect(kernel % 2 == 1, where, "kernel", kernel, "an odd number")
    if channels % groups or k["out"] % groups:
        raise NetworkError(f"{where}: groups = {groups} must divide the {channels} input and "
                           f"{k['out']} output channels")
    _expect_size((4 * k["out"], 4 * channels // groups, kernel, kernel), f"{where}: kernel")
    module = GroupConv(channels, k["out"], **geometry, groups=groups, mix=k["mix"], bias=k["bias"])
    return module, (4 * k["out"], *sides)


def _planar(name, where):
    """(rotations, 0: all; has reflections) of C4, D4, D4@45, SO(2), O(2)."""
    if name in ("SO(2)", "O(2)"):
        return 0, name == "O(2)"
    match = re.fullmatch(r"C([1-9]\d*)|D([1-9]\d*)(@[-+.\de]+)?", name or "")
    if not match:
        raise NetworkError(f"{where}: group = {name!r}; expected CN, DN, SO(2) or O(2)")
    return int(match[1] or match[2]), match[1] is None


_ORDERS = {"T": 12, "O": 24, "I": 60, "Ci": 2, "Th": 24, "Oh": 48, "Ih": 120}
_CHEMISTS = {"A": 1, "A1": 1, "A2": 1, "E": 2, "T": 3, "T1": 3, "T2": 3, "G": 4, "H": 5}


def _spatial_field_size(kind, group, where):
    """Channels of one field of a group of space: what this reader needs of it. The C++ reader knows which
    irreps a group has."""
    match = re.fullmatch(r"(?:\([01],)?\(?(\w+)\)*", kind)
    if kind == "trivial":
        return 1
    if kind == "regular" and group in _ORDERS:
        return _ORDERS[group]
    if kind.startswith("/") and group in _ORDERS and kind[1:] in _ORDERS:
        return _ORDERS[group] // _ORDERS[kind[1:]]
    if band := re.fullmatch(r"<(\d+)", kind):
        return sum((2 * l + 1) ** 2 for l in range(int(band[1]) + 1)) * (1 + (group == "O(3)"))
    if match and match[1].isdigit() and group in ("SO(3)", "O(3)"):
        return 2 * int(match[1]) + 1
    if match and match[1] in _CHEMISTS and group in _ORDERS:
        return _CHEMISTS[match[1]]
    raise NetworkError(f"{where}: {group} has no fields {kind!r}; expected trivial, regular (of a "
                       "finite group), an irrep, /SUBGROUP or <FREQUENCY")


def _terms(kind):
    """["a", "[b+c]^2"] of "a+[b+c]^2": the kinds whose sum it is."""
    depth, terms = 0, [""]
    for c in kind:
        depth += (c == "[") - (c == "]")
        if c == "+" and depth == 0:
            terms.append("")
        else:
            terms[-1] += c
    return terms


def _field_size(kind, group, where):
    """Channels of one field, for the kinds of src/nn/field_type.h."""
    terms = _terms(kind)
    if len(terms) > 1:
        return sum(_field_size(term, group, where) for term in terms)
    if kind.endswith("^2"):
        base = kind[:-2]
        size = _field_size(base[1:-1] if re.fullmatch(r"\[.*\]", base) else base, group, where)
        return size * (size + 1) // 2
    if group in _ORDERS or group in ("SO(3)", "O(3)"):
        return _spatial_field_size(kind, group, where)
    order, flips = _planar(group, where)
    if kind == "trivial":
        return 1
    if kind == "regular" and order:
        return order * (1 + flips)
    if kind.startswith("/") and order:
        less, less_flips = _planar(kind[1:], where)
        if less and order % less == 0 and less_flips <= flips:
            return order * (1 + flips) // (less * (1 + less_flips))
    size = lambda k: 1 if k == 0 or 2 * k == order else 2
    if match := re.fullmatch(r"<(\d+)", kind):
        last = min(int(match[1]), order // 2) if order else int(match[1])
        return sum(size(k) * (1 + flips) for k in range(last + 1))
    match = re.fullmatch(r"\(([01]),(\d+)\)" if flips else r"\(()(\d+)\)", kind)
    if match and (not order or 2 * int(match[2]) <= order):
        k = int(match[2])
        if not flips or match[1] == "1" or size(k) == 1:
            return size(k)
    raise NetworkError(f"{where}: {group} has no fields {kind!r}; expected trivial, regular (of a "
                       "finite group), an irrep, /SUBGROUP or <FREQUENCY")


def _fields_of(words, group, where, key):
    """[(number, channels of one)] of "2 regular" or of a list of such."""
    words = [words] if isinstance(words, str) else words
    if not isinstance(words, list) or not words:
        raise NetworkError(f'{where}: {key} = {words!r}; expected "NUMBER KIND" or a list of such')
    out = []
    for word in words:
        match = re.fullmatch(r"([1-9]\d*) +(\S.*)", word) if isinstance(word, str) else None
        if not match:
            raise NetworkError(f'{where}: {key} = {word!r}; expected a number and a kind, as in '
                               '"4 regular"')
        out.append((int(match[1]), _field_size(match[2], group, where)))
    return words, out


def _fields_in(k, shape, where, group_key="group"):
    """Group, and fields of the input: its own, those given, or channels that do not transform."""
    group = k[group_key] or getattr(shape, "group", None)
    if group is None:
        raise NetworkError(f"{where}: key '{group_key}' is missing")
    words = k["in"] or getattr(shape, "kinds", None) or f"{shape[0]} trivial"
    words, fields = _fields_of(words, group, where, "in")
    if isinstance(shape, _Fields) and (shape.group, shape.kinds) != (group, words):
        raise NetworkError(f"{where}: expected fields of {group}: {', '.join(words)}, but what comes "
                           f"in are fields of {shape.group}: {', '.join(shape.kinds)}")
    if sum(n * size for n, size in fields) != shape[0]:
        raise NetworkError(f"{where}: in = {words!r} has not the {shape[0]} channels of the input")
    return group, words, fields


_STEERABLE = {"group": None, "in": None, "out": FIELDS, "kernel": 3, "stride": 1, "padding": 0,
              "padding_mode": "zeros", "dilation": 1, "isotypic": None, "bias": True, "degree": None,
              "degree_start": None}


@_layer("steerable_conv", **_STEERABLE)
def _steerable_conv2d(k, shape, where):
    return _steerable_conv(k, shape, where, 2)


@_layer("steerable_conv3d", **_STEERABLE)
def _steerable_conv3d(k, shape, where):
    return _steerable_conv(k, shape, where, 3)


_STEERABLE_TRANSPOSE = {**{key: value for key, value in _STEERABLE.items() if key != "padding_mode"},
                        "output_padding": 0}


@_layer("steerable_conv_transpose", **_STEERABLE_TRANSPOSE)
def _steerable_conv_transpose2d(k, shape, where):
    return _steerable_conv({**k, "padding_mode": "zeros"}, shape, where, 2)


@_layer("steerable_conv_transpose3d", **_STEERABLE_TRANSPOSE)
def _steerable_conv_transpose3d(k, shape, where):
    return _steerable_conv({**k, "padding_mode": "zeros"}, shape, where, 3)


def _steerable_conv(k, shape, where, dims):
    _expect_rank(shape, dims + 1, where)
    group, of_input, in_fields = _fields_in(k, shape, where)
    of_output, out_fields = _fields_of(k["out"], group, where, "out")
    if "output_padding" in k:
        geometry = {key: _count(k[key], where, key, 0 if key.endswith("padding") else 1)
                    for key in ("kernel", "padding", "output_padding")} | {"transposed": True}
        sides = _transposed_window(shape[1:], {key: (_count(k[key], where, key, 0),) * dims for key in
                                               (*_GEOMETRY, "output_padding")}, where)
    else:
        geometry, _ = _square(k, shape, where, dims)
        span = k["dilation"] * (k["kernel"] - 1) + 1
        sides = [(n + 2 * k["padding"] - span) // k["stride"] + 1 for n in shape[1:]]
        _expect(min(sides) >= 1, where, "kernel", k["kernel"], "a kernel that fits into the input")
    _expect(k["kernel"] % 2 == 1, where, "kernel", k["kernel"], "an odd size")
    module = SteerableConv(in_fields, out_fields, **geometry, stride=k["stride"],
                           dilation=k["dilation"], bias=k["bias"], dims=dims, group=group,
                           **{"in": of_input, "out": of_output,
                              **_chosen_kernels(k, group, where)})
    channels = sum(n * size for n, size in out_fields)
    return module, _with_fields((channels, *sides), group, of_output)


def _chosen_kernels(k, group, where):
    """Which kernels a layer has: those of one irrep, or of all up to a frequency, which a degree may scale."""
    if k["degree"] is not None:
        _count(k["degree"], where, "degree")
        if not re.fullmatch(r"([CD]\d+|S?O\(2\))(@.*)?", group):
            raise NetworkError(f"{where}: degree: densities on {group} are known to the C++ library only")
        if k["isotypic"] is not None and not k["isotypic"].startswith("<"):
            raise NetworkError(f"{where}: a degree scales kernels of all irreps: expected isotypic "
                               f'"<{k["degree"]}" with degree = {k["degree"]}, found "{k["isotypic"]}"')
    if k["degree_start"] is not None:  # where a training begins: weights' files have what it became
        _expect(k["degree"] is not None, where, "degree_start", k["degree_start"], "degree beside it")
        _expect(0 <= _number(k["degree_start"], where, "degree_start") <= 30, where, "degree_start",
                k["degree_start"], "0 <= degree_start <= 30")
    return {"isotypic": k["isotypic"], "degree": k["degree"]}


def _planar_irreps(group, band, resolved):
    """Irreps of a group of the plane up to a band at the nodes of its mean, each [Q, d, d], with the number of
    columns that a density's coefficients have of them."""
    order = re.fullmatch(r"[CD](\d+)(@.*)?", group)
    order, mirrors = int(order[1]) if order else 0, group[0] in "DO"
    count = order or 16 * max(band, resolved, 1) + 1
    theta = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    ones, alternating = torch.ones(count, dtype=torch.float64), (-1.0) ** torch.arange(count, dtype=torch.float64)

    def both(turns, reflected):  # [Q, d, d]: those of rotations, then of reflections
        return torch.cat([turns, reflected]) if mirrors else turns

    def number(of_turns, sign):
        return both(of_turns[:, None, None], sign * of_turns[:, None, None]), 1

    out = [number(ones, 1)] + ([number(ones, -1)] if mirrors else [])
    for k in range(1, min(resolved, order // 2 if order else resolved) + 1):
        if 2 * k == order:
            out += [number(alternating, -1), number(alternating, 1)] if mirrors else [number(alternating, 1)]
            continue
        c, s = torch.cos(k * theta), torch.sin(k * theta)
        turns = torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)], 1)
        out.append((both(turns, turns * torch.tensor([1.0, -1.0], dtype=torch.float64)), 2 if mirrors else 1))
    return out


def _density(irreps, theta):
    """lambda at the nodes [Q], their sum 1: exp(l)/Z with the coefficients theta."""
    l, at = torch.zeros(len(irreps[0][0]), dtype=torch.float64), 0
    for psi, columns in irreps[1:]:  # the trivial one does not matter
        size = psi.shape[1]
        if at == len(theta):
            break
        part = theta[at:at + columns * size].double().view(columns, size)
        l = l + math.sqrt(size) * torch.einsum("qij,ji->q", psi[:, :, :columns], part)
        at += columns * size
    return torch.softmax(l, 0)


def degree_density(group, degree, coefficients):
    """The density of a learned degree relative to the uniform one: (theta [Q] in radians, lambda [1, Q], of
    groups with reflections [2, Q], for theta and for theta behind the reflection). For pictures of what
    `N.degree.i` of a run file says; groups of the plane."""
    irreps = _planar_irreps(group, degree, 4 * degree)
    values = _density(irreps, torch.as_tensor(coefficients))
    copies = 2 if group[0] in "DO" else 1
    count = len(values) // copies
    theta = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return theta, (values * len(values)).view(copies, count)


def _expectations(group, degree, band, theta):
    """int lambda(h) psi(h) dh [d, d] of the irreps up to a band."""
    density = _density(_planar_irreps(group, degree, max(band, degree)), theta)
    return [torch.einsum("q,qij->ij", density, psi) for psi, _ in _planar_irreps(group, degree, band)]


@_layer("restrict", group=REQUIRED, out=(), **{"from": None, "in": None})
def _restrict(k, shape, where):
    group, words, fields = _fields_in(k, shape, where, "from")
    out = [_restricted(word, group, k["group"]) for word in words]
    given = list(k["out"]) if isinstance(k["out"], (list, tuple)) else [k["out"]]
    if None not in out:
        found = _joined(word for part in out for word in part)
        if given and given != found:
            raise NetworkError(f"{where}: out: fields of {group}: {', '.join(words)} are {', '.join(found)} for "
                               f"{k['group']}, expected that in place of {', '.join(given)}")
        given = found
    if not given:
        raise NetworkError(f"{where}: what {', '.join(words)} of {group} are for {k['group']} is known to the C++ "
                           'library only; expected out = [..], those fields')
    given, of_output = _fields_of(given, k["group"], where, "out")
    if sum(n * size for n, size in of_output) != shape[0]:
        raise NetworkError(f"{where}: out = {given!r} has not the {shape[0]} channels of the input")
    module = Restrict([n for n, _ in fields], group=k["group"], out=given, **{"from": group, "in": words})
    return module, _with_fields(shape, k["group"], given)


def _order_of(group):
    """Of a finite group, else None."""
    if group in _ORDERS:
        return _ORDERS[group]
    match = re.fullmatch(r"([CD])(\d+)(@.*)?", group)
    return int(match[2]) * (1 + (match[1] == "D")) if match else None


def _restricted(word, group, subgroup):
    """["4 regular"] for "2 regular": the fields of a subgroup that fields are, by src/nn/field_restriction.h; None
    where this reader does not know."""
    count, kind = word.split(maxsplit=1)
    count, order, of = int(count), _order_of(subgroup), _order_of(group)
    if subgroup == group:
        return [word]
    if kind == "trivial":
        return [f"{count} trivial"]
    if subgroup == "C1":
        return [f"{count * _field_size(kind, group, word)} trivial"]
    if kind == "regular" and order and of and of % order == 0:
        return [f"{count * of // order} regular"]
    try:
        (n, flips), (less, less_flips) = _planar(group, word), _planar(subgroup, word)
    except NetworkError:
        return None
    band = re.fullmatch(r"<(\d+)", kind)
    irreps = _spectral(n, flips, int(band[1])) if band else [kind]
    pieces = [_irreps_on(irrep, n, flips, less, less_flips) for irrep in irreps]
    if None in pieces:
        return None
    pieces = [piece for part in pieces for piece in part]
    if band:
        whole = ["trivial", *_spectral(less, less_flips, int(band[1]))[1:]]
        times = pieces.count("trivial")
        if len(whole) > 1 and sorted(whole * times) == sorted(pieces):
            return [f"{count * times} {kind}"]
    kinds = list(dict.fromkeys(pieces))
    return [f"{count * pieces.count(piece)} {piece}" for piece in kinds]


def _spectral(order, flips, band):
    """Irreps of a group of the plane up to a frequency, each as often as the regular representation has it."""
    last = min(band, order // 2) if order else band
    if not flips:
        return [f"({k})" for k in range(last + 1)]
    half = order // 2 if order and order % 2 == 0 else None
    out = ["(0,0)", "(1,0)"]
    for k in range(1, last + 1):
        out += [f"(1,{k})"] * (1 if k == half else 2)
    return out + ([f"(0,{half})"] if half and half <= last else [])


def _irreps_on(irrep, order, flips, less, less_flips):
    """The irreps of a subgroup that an irrep falls into; None where that depends on its mirror."""
    match = re.fullmatch(r"\(([01]),(\d+)\)" if flips else r"\(()(\d+)\)", irrep)
    if not match:
        return None
    j, k = match[1], int(match[2])
    size = 1 if k == 0 or 2 * k == order else 2
    f = min(k % less, -k % less) if less else k
    if less_flips:
        if k == 0:
            return ["trivial" if j == "0" else "(1,0)"]
        return [f"(1,{f})"] if size == 2 and (not less or 0 < 2 * f < less) else None
    if f == 0 or 2 * f == less:
        return [f"({f})" if f else "trivial"] * size
    return [f"({f})"]


_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "silu": nn.SiLU,
                "gelu": nn.GELU, "elu": nn.ELU, "softplus": nn.Softplus}


@_layer("fourier", group=None, **{"in": None}, activation="relu", samples=0)
def _fourier(k, shape, where):
    group, words, fields = _fields_in(k, shape, where)
    if k["activation"] not in _ACTIVATIONS:
        raise NetworkError(f"{where}: activation = {k['activation']!r}"
                           f"{_nearest(k['activation'], _ACTIVATIONS)}")
    for word in words:
        band = re.search(r"<(\d+)$", word)
        if not band and not word.endswith(" trivial"):
            raise NetworkError(f"{where}: {word} fields are no functions on {group} by their "
                               'coefficients: expected "<L" or trivial')
        least = 2 * int(band[1]) + 1 if band else 1
        if 0 < _count(k["samples"], where, "samples", 0) < least:
            raise NetworkError(f"{where}: samples = {k['samples']}; expected at least {least} for "
                               f"{word} fields")
    module = Fourier([n for n, _ in fields], k["activation"], group=group, samples=k["samples"],
                     **{"in": words})
    return module, _with_fields(shape, group, words)


@_layer("gated", group=None, **{"in": None}, activation="relu")
def _gated(k, shape, where):
    group, words, fields = _fields_in(k, shape, where)
    if k["activation"] not in _ACTIVATIONS:
        raise NetworkError(f"{where}: activation = {k['activation']!r}"
                           f"{_nearest(k['activation'], _ACTIVATIONS)}")
    trivial = [size == 1 and _is_trivial(word.split()[-1]) for word, (_, size) in zip(words, fields)]
    scalars = sum(n for (n, _), is_trivial in zip(fields, trivial) if is_trivial)
    gates = sum(n for (n, _), is_trivial in zip(fields, trivial) if not is_trivial)
    if not gates or scalars < gates:
        raise NetworkError(f"{where}: expected fields, and for each a trivial channel as its gate, found "
                           f"{', '.join(words)}")
    out = [f"{scalars - gates} trivial"] if scalars > gates else []
    out += [word for word, is_trivial in zip(words, trivial) if not is_trivial]
    module = Gated([(n, size, t) for (n, size), t in zip(fields, trivial)], k["activation"], group=group,
                   **{"in": words})
    return module, _with_fields((shape[0] - gates, *shape[1:]), group, out)


def _is_permutation(kind):
    """Of a kind that is no sum, whether the group permutes its channels."""
    return re.fullmatch(r"trivial|regular|/[^+^\s]+", kind) is not None


def _is_trivial(kind):
    """Of a kind of one channel, whether it does not transform."""
    return (kind in ("trivial", "regular", "(0)", "(0,0)", "<0", "A", "A1", "(0,A)", "(0,A1)")
            or kind.startswith("/") or kind.endswith("^2"))


_OF_LENGTHS = {"relu": F.relu, "sigmoid": torch.sigmoid, "softplus": F.softplus,
               "squash": lambda u: u / (1 + u.abs())}


@_layer("norm_activation", group=None, **{"in": None}, activation="relu", bias=None)
def _norm_activation(k, shape, where):
    group, words, fields = _fields_in(k, shape, where)
    kind, bias = k["activation"], k["bias"]
    if kind not in _OF_LENGTHS:
        raise NetworkError(f"{where}: activation = {kind!r}{_nearest(kind, _OF_LENGTHS)}")
    _expect(bias is None or isinstance(bias, bool), where, "bias", bias, "true or false")
    trivial = [size == 1 and _is_trivial(word.split()[-1]) for word, (_, size) in zip(words, fields)]
    if kind == "squash" and bias:
        raise NetworkError(f"{where}: bias: squash has none, found true")
    if kind == "relu" and bias is False and not all(trivial):
        raise NetworkError(f"{where}: bias: relu leaves every length as it is without one, found false")
    module = NormActivation([(n, size, t) for (n, size), t in zip(fields, trivial)], kind,
                            kind != "squash" if bias is None else bias, group=group, **{"in": words})
    return module, _with_fields(shape, group, words)


@_layer("norm_pool", group=None, **{"in": None})
def _norm_pool(k, shape, where):
    group, words, fields = _fields_in(k, shape, where)
    count = sum(n for n, _ in fields)
    return (NormPool(fields, group=group, **{"in": words}),
            _with_fields((count, *shape[1:]), group, [f"{count} trivial"]))


@_layer("tensor_product", group=None, **{"in": None}, keep=True)
def _tensor_product(k, shape, where):
    group, words, fields = _fields_in(k, shape, where)
    out = list(words) if k["keep"] else []
    channels = shape[0] if k["keep"] else 0
    for word, (n, size) in zip(words, fields):
        if size > 64:
            raise NetworkError(f"{where}: {word!r} are fields of {size} channels; expected at most 64")
        kind = word.split(None, 1)[1]
        out.append(f"{n} trivial" if size == 1 else f"{n} [{kind}]^2" if "+" in kind else f"{n} {kind}^2")
        channels += n * size * (size + 1) // 2
    module = TensorProduct(fields, k["keep"], group=group, **{"in": words})
    return module, _with_fields((channels, *shape[1:]), group, out)


@_layer("field_dropout", p=0.5)
def _field_dropout(k, shape, where):
    _expect(0 <= k["p"] < 1, where, "p", k["p"], "0 <= p < 1")
    fields = _fields_of(shape.kinds, shape.group, where, "in")[1] if isinstance(shape, _Fields) else None
    return FieldDropout(k["p"], fields), shape


@_layer("field_pool", group=None, **{"in": None})
def _field_pool(k, shape, where):
    group, words, fields = _fields_in(k, shape, where)
    for word in words:
        if not all(map(_is_permutation, _terms(word.split(None, 1)[1]))):
            raise NetworkError(f"{where}: the largest channel is not invariant for {word!r} of "
                               f"{group}, which is not made of permutations")
    count = sum(n for n, _ in fields)
    return (FieldPool(fields, group=group, **{"in": words}),
            _with_fields((count, *shape[1:]), group, [f"{count} trivial"]))


@_layer("polyphase", stride=2)
def _polyphase(k, shape, where):
    stride = _stride(k, shape, where, least=2)
    return Polyphase(stride), (shape[0], shape[1] // stride, shape[2] // stride)


def _epsilon(k, where):
    _expect(k["eps"] >= 0, where, "eps", k["eps"], "a number of at least 0")
    return k["eps"]


@_layer("batchnorm", eps=1e-5, momentum=0.1, affine=True)
def _batchnorm(k, shape, where):
    _expect(0 <= k["momentum"] <= 1, where, "momentum", k["momentum"], "0 <= momentum <= 1")
    module = {3: nn.BatchNorm2d, 4: nn.BatchNorm3d}.get(len(shape), nn.BatchNorm1d)
    if isinstance(shape, _Fields):
        words, fields = _fields_of(shape.kinds, shape.group, where, "in")
        kinds = [word.split(None, 1)[1] for word in words]
        if not all(size == 1 and _is_trivial(kind) for kind, (_, size) in zip(kinds, fields)):
            permutes = [_is_permutation(kind) or size == 1 and _is_trivial(kind)
                        for kind, (_, size) in zip(kinds, fields)]
            fields = [(*field, p) for field, p in zip(fields, permutes)]
            return FieldNorm(fields, _epsilon(k, where), k["momentum"], k["affine"]), shape
    return module(shape[0], _epsilon(k, where), k["momentum"], k["affine"]), shape


@_layer("layernorm", eps=1e-5, affine=True)  # over the whole sample: weight [C, H, W]
def _layernorm(k, shape, where):
    return nn.LayerNorm(shape, _epsilon(k, where), k["affine"]), shape


@_layer("groupnorm", groups=REQUIRED, eps=1e-5, affine=True)
def _groupnorm(k, shape, where):
    if shape[0] % k["groups"]:
        raise NetworkError(f"{where}: groups = {k['groups']} must divide {shape[0]} channels")
    return nn.GroupNorm(k["groups"], shape[0], _epsilon(k, where), k["affine"]), shape


@_layer("dropout", p=0.5)
def _dropout(k, shape, where):
    _expect(0 <= k["p"] < 1, where, "p", k["p"], "0 <= p < 1")
    return nn.Dropout(k["p"]), shape


@_layer("gelu", approximate="none")
def _gelu(k, shape, where):
    _expect(k["approximate"] in ("none", "tanh"), where, "approximate", k["approximate"],
            '"none" or "tanh"')
    return nn.GELU(k["approximate"]), shape


@_layer("softplus", beta=1.0, threshold=20.0)
def _softplus(k, shape, where):
    _expect(k["beta"] > 0, where, "beta", k["beta"], "a number above 0")
    return nn.Softplus(k["beta"], k["threshold"]), shape


def _same_shape(type_name, make, **keys):
    _TYPES[type_name] = (keys, lambda k, shape, where: (make(**k), shape))


_same_shape("relu", nn.ReLU)
_same_shape("tanh", nn.Tanh)
_same_shape("sigmoid", nn.Sigmoid)
_same_shape("elu", nn.ELU, alpha=1.0)
_same_shape("silu", nn.SiLU)
_same_shape("bias", Bias)
_same_shape("scale", Scale)


def _expect(holds, where, key, value, expected):
    if not holds:
        raise NetworkError(f"{where}: {key} = {value!r}; expected {expected}")


def _is_count(value, least):
    return type(value) is int and least <= value <= _LARGEST


def _count(value, where, key, least=1):
    _expect(_is_count(value, least), where, key, value,
            f"a whole number from {least} to {_LARGEST}")
    return value


def _number(value, where, key):
    _expect(type(value) is int and abs(value) < 2**63  # as large as TOML's integers
            or type(value) is float and math.isfinite(value), where, key, value, "a finite number")
    return float(value)


def _expect_rank(shape, rank, where):
    if len(shape) != rank:
        kind = {2: "[C, L]", 3: "[C, H, W]", 4: "[C, D, H, W]"}[rank]
        raise NetworkError(f"{where}: needs an input {kind}, got {list(shape)}")


def _expect_size(shape, what):
    """Refuses what no machine holds before anything is allocated."""
    if math.prod(shape) > _MOST:
        raise NetworkError(f"{what} {list(shape)} has {math.prod(shape):.4g} numbers; expected at "
                           f"most {_MOST}")


def _sides(k, key, dims, where):
    """3 or [3, 5] -> (3, 3) or (3, 5); one number only where there is one dimension."""
    value, least = k[key], 0 if key.endswith("padding") else 1
    sides = value if isinstance(value, list) and dims > 1 else [value] * dims
    kind = "a whole number" if dims == 1 else f"a whole number or {dims} of them"
    _expect(len(sides) == dims and all(_is_count(s, least) for s in sides), where, key, value,
            f"{kind}, from {least} to {_LARGEST}")
    return tuple(sides)


def _window(sides, kernel, stride, padding, dilation, where):
    """Output sides of a sliding window, floor division as in torch."""
    out = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1
                for n, k, s, p, d in zip(sides, kernel, stride, padding, dilation))
    if min(out) < 1:
        raise NetworkError(f"{where}: kernel {list(kernel)} does not fit into {list(sides)}")
    return out


# ---------------------------------------------------------------- network file -> module

def load_network(path, classes=None):
    """The torch module of a network file. Parameters are fresh, float32; see `load_weights`.
    `input` and `layer` stand at the top, or under [network] as in an experiment's file. A layer
    with `out = "classes"` is as wide as the labels of an experiment's task are many: `classes`."""
    with open(path, "rb") as file:
        try:
            document = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise NetworkError(f"{path}: {error}") from None
    if isinstance(document.get("network"), dict):
        document = document["network"]
    return build_network(document, path, classes)


def build_network(table, file, classes=None):
    """The torch module of a table with `input` and `layer`; `file` names it in errors."""
    if classes is not None:
        table = _with_width(table, _count(classes, "load_network", "classes"))
    keys = _check_keys(table, {"input": REQUIRED, "layer": REQUIRED}, str(file))
    shape = keys["input"]
    _expect(isinstance(shape, list) and 1 <= len(shape) <= 4
            and all(type(s) is int and s > 0 for s in shape), file, "input", shape,
            "one to four positive whole numbers, [D], [C, L], [C, H, W] or [C, D, H, W]")
    _expect_size(shape, f"{file}: input")
    where = f"{file}: layer"
    layers, out = _build_all(_layers(keys["layer"], where), tuple(shape), where)
    if len(out) != 1:
        raise NetworkError(f"{file}: the last layer gives {list(out)}; expected one vector of "
                           "outputs, which a flatten or global_avgpool layer makes")
    return Network(layers, shape)


def _with_width(node, classes):
    """The same tables with the number in place of `out = "classes"`."""
    if isinstance(node, list):
        return [_with_width(entry, classes) for entry in node]
    if isinstance(node, dict):
        return {key: classes if (key, value) == ("out", "classes") else _with_width(value, classes)
                for key, value in node.items()}
    return node


def _layers(value, where):
    if not isinstance(value, list) or not value:
        raise NetworkError(f"{where} = {value!r}; expected a list of at least one layer")
    return value


def _build_all(entries, shape, where):
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
    if not isinstance(type_name, str) or type_name not in _TYPES:
        raise NetworkError(f"{where}: type = {type_name!r} is not known"
                           f"{_nearest(type_name, _TYPES)}")
    keys, build = _TYPES[type_name]
    where = f"{where} ({type_name})"
    rest = {key: value for key, value in entry.items() if key != "type"}
    layer, out = build(_check_keys(rest, keys, where), shape, where)
    _expect_size(out, f"{where}: output")
    if isinstance(shape, _Fields) and type_name in _KEEP_FIELDS:
        out = _with_fields(out, shape.group, shape.kinds)
    elif isinstance(out, _Fields) and type_name not in _MAKE_FIELDS:
        out = tuple(out)
    return layer, out


def _check_keys(table, keys, where):
    """The value of every key, defaults included; what a value alone can get wrong is refused."""
    for key in table:
        if key not in keys:
            raise NetworkError(f"{where}: unknown key '{key}'{_nearest(key, keys)}")
    for key, default in keys.items():
        if default in (REQUIRED, FIELDS) and key not in table:
            raise NetworkError(f"{where}: key '{key}' is missing")
    return {key: _checked(table[key], default, where, key) if key in table else default
            for key, default in keys.items()}


def _checked(value, default, where, key):
    if (key, value) == ("out", "classes"):
        raise NetworkError(f'{where}: out = "classes" needs the number of labels; give it, as in '
                           "load_network(path, classes=10)")
    if key == "out" and default is not FIELDS and default != ():
        _expect(_is_count(value, 1), where, key, value,
                f'a whole number from 1 to {_LARGEST}, or "classes"')
    if key == "groups":
        return _count(value, where, key)
    if type(default) is float:
        return _number(value, where, key)
    if isinstance(default, bool):
        _expect(isinstance(value, bool), where, key, value, "true or false")
    return value


def _nearest(name, known):
    close = difflib.get_close_matches(str(name), known, 1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known)) or 'none'}"


# ---------------------------------------------------------------- module -> network file

_PLAIN = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.SiLU: "silu",
          GlobalAvgPool: "global_avgpool", Bias: "bias", Scale: "scale", GroupLift: "group_lift",
          GroupPool: "group_pool"}


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
    if kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        if module.padding_mode not in ("zeros", "circular"):
            _refuse(module, f'padding_mode = "{module.padding_mode}"')
        name = {nn.Conv1d: "conv1d", nn.Conv2d: "conv", nn.Conv3d: "conv3d"}[kind]
        return {"type": name, "out": module.out_channels,
                "kernel": module.kernel_size, "stride": module.stride, "padding": _padding(module),
                "dilation": module.dilation, "groups": module.groups,
                "bias": module.bias is not None, "padding_mode": module.padding_mode}
    if kind in (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d):
        is_max = kind in (nn.MaxPool1d, nn.MaxPool2d)
        _require(module, ceil_mode=False)
        if is_max:
            _require(module, dilation=1, return_indices=False)
        else:
            _require(module, count_include_pad=True)
            if getattr(module, "divisor_override", None) is not None:
                _refuse(module, "divisor_override is set")
        name = "maxpool" if is_max else "avgpool3d" if kind is nn.AvgPool3d else "avgpool"
        return {"type": name, "kernel": module.kernel_size,
                "stride": None if module.stride == module.kernel_size else module.stride,
                "padding": module.padding}
    if kind in (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d):
        if module.output_size not in (1, (1,), (1, 1), (1, 1, 1)):
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
    if kind is FieldNorm:
        one = next(module.children())
        return {"type": "batchnorm", "eps": one.eps, "momentum": float(one.momentum), "affine": one.affine}
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
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
    if kind is Repeat:
        return {"type": "repeat", "times": module.times,
                "layer": [_table(m) for child in module for m in _chain(child)]}
    if kind is Sum:
        scale = None if module.scale == 1.0 / len(list(module.children())) else module.scale
        return {"type": "sum", "scale": scale,
                "of": [[_table(m) for m in _chain(p)] if _is_list(p) else _table(p)
                       for p in module.children()]}
    if kind is Concat:
        return {"type": "concat", "of": [[_table(m) for m in _chain(p)] if _is_list(p) else _table(p)
                                         for p in module.children()]}
    if kind is FC:
        return {"type": "fc", "out": module.out_shape[0], "stride": module.stride,
                "bias": module.bias is not None}
    if kind is FactoredFC:
        return {"type": "factored_fc", "out": module.out_shape[0], "stride": module.stride,
                "bias": module.bias_U is not None}
    if kind is SparseConv:
        return {"type": "sparse_conv", "out": module.weight.shape[0], "kernel": module.kernel,
                "padding": module.padding, "padding_mode": module.padding_mode,
                "bias": module.bias is not None, **module.keys()}
    if kind is SparseFC:
        return {"type": "sparse_fc", "out": module.out_shape[0], "stride": module.stride,
                "bias": module[1].bias_U is not None, **module[0].keys()}
    if kind is GroupConv:
        return {"type": "group_conv", "out": module.weight.shape[0], "kernel": module.kernel,
                "padding": module.padding, "padding_mode": module.padding_mode,
                "groups": module.groups, "mix": module.mix, "bias": module.bias is not None}
    if kind is SteerableConv:
        name = "steerable_conv_transpose" if module.transposed else "steerable_conv"
        own = {"output_padding": module.output_padding} if module.transposed else {
            "padding_mode": module.padding_mode}
        return {"type": name if module.dims == 2 else name + "3d", **module.keys, "kernel": module.kernel,
                "stride": module.stride, "padding": module.padding, **own, "dilation": module.dilation,
                "bias": module.has_bias}
    if kind is Fourier:
        return {"type": "fourier", **module.keys}
    if kind is Gated:
        return {"type": "gated", **module.keys}
    if kind is NormActivation:  # said where it is not what the activation has of itself
        said = module.has_bias != (module.keys["activation"] != "squash")
        return {"type": "norm_activation", **module.keys, "bias": module.has_bias if said else None}
    if kind is NormPool:
        return {"type": "norm_pool", **module.keys}
    if kind is TensorProduct:
        return {"type": "tensor_product", **module.keys, "keep": module.keep}
    if kind in (FieldDropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
        return {"type": "field_dropout", "p": float(module.p)}
    if kind is FieldPool:
        return {"type": "field_pool", **module.keys}
    if kind is Polyphase:
        return {"type": "polyphase", "stride": module.stride}
    if kind is BlurPool:
        return {"type": "blurpool", "sigma": module.sigma, "stride": module.stride,
                "padding": None if module.padding == module.reach else module.padding}
    if kind is DiscMask:
        return {"type": "mask", "margin": module.margin, "sigma": module.sigma}
    if kind is nn.Upsample:
        if module.mode not in ("nearest", "bilinear", "trilinear"):
            _refuse(module, f'mode = "{module.mode}"')
        if module.align_corners:
            _refuse(module, "align_corners = True")
        return {"type": "upsample", "size": module.size, "scale": module.scale_factor,
                "mode": "nearest" if module.mode == "nearest" else "linear"}
    if kind in (nn.ConvTranspose2d, nn.ConvTranspose3d):
        return {"type": "conv_transpose" if kind is nn.ConvTranspose2d else "conv_transpose3d",
                "out": module.out_channels, "kernel": module.kernel_size, "stride": module.stride,
                "padding": module.padding, "output_padding": module.output_padding,
                "dilation": module.dilation, "groups": module.groups, "bias": module.bias is not None}
    if kind is Restrict:
        return {"type": "restrict", **module.keys}
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


def plain_network(network):
    """The same function with nn.Conv2d or nn.Conv3d in place of every steerable convolution, and of every sum of
    them: what it costs to evaluate is what plain convolutions cost. A new network; it can be saved as others."""
    out = copy.deepcopy(network)
    _make_plain(out)
    return out


def _make_plain(module):
    for name, child in module.named_children():
        convolutions = _steerable_sum(child)
        if convolutions:
            scale = child.scale if isinstance(child, Sum) else 1
            setattr(module, name, _plain_conv(convolutions, scale))
        else:
            _make_plain(child)


def _steerable_sum(module):
    """The convolutions that a module adds up, all of one geometry; none where it is something else."""
    paths = list(module.children()) if isinstance(module, Sum) else [module]
    paths = [path[0] if type(path) is nn.Sequential and len(path) == 1 else path for path in paths]
    if not all(isinstance(path, SteerableConv) for path in paths):
        return []
    geometry = {(p.dims, p.kernel, p.stride, p.padding, p.padding_mode, p.dilation, p.transposed, p.output_padding)
                for p in paths}
    return paths if len(geometry) == 1 else []


def _plain_conv(convolutions, scale):
    kernels, biases = zip(*(c.plain() for c in convolutions))
    kernel, bias, one = scale * sum(kernels), scale * sum(biases), convolutions[0]
    has_bias = any(c.has_bias for c in convolutions)
    if one.transposed:
        make = nn.ConvTranspose2d if one.dims == 2 else nn.ConvTranspose3d
        kernel = kernel.transpose(0, 1)
        conv = make(kernel.shape[0], kernel.shape[1], one.kernel, one.stride, one.padding, one.output_padding,
                    bias=has_bias, dilation=one.dilation).to(kernel)
    else:
        make = nn.Conv2d if one.dims == 2 else nn.Conv3d
        conv = make(kernel.shape[1], kernel.shape[0], one.kernel, one.stride, one.padding, one.dilation,
                    bias=has_bias, padding_mode=one.padding_mode).to(kernel)
    conv.weight = nn.Parameter(kernel.detach().clone())
    if has_bias:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv


def save_network(module, input_shape, path):
    """Writes the network file of `module` for inputs of `input_shape` (without the batch).

    Plain nn.Sequential in nn.Sequential is opened and nn.Identity left out, so numbers may shift;
    `named_tensors`, `save_weights` and `load_weights` count the same way. The written file is read
    back, and refused if it does not compute the same outputs as `module`."""
    layers = _chain(module)
    lines = "".join(f"  {_value(_table(layer), '  ')},\n" for layer in layers)
    text = f"input = {list(input_shape)}\nlayer = [\n{lines}]\n"
    _check_same(module, text, path)
    Path(path).write_text(text, encoding="utf-8")


def _check_same(module, text, path):
    copy = build_network(tomllib.loads(text), path)
    _copy(copy, {name: tensor.detach() for name, tensor in named_tensors(module)}, path,
          match_type=True)
    tensors = [*module.parameters(), *(t for _, t in named_tensors(module))]  # what a group gives is float64
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, *copy.input_shape, generator=generator, dtype=like.dtype).to(like.device)
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
    return [(prefix + name, t) for prefix, layer in _named_layers(module)
            for store in (layer._parameters, layer._buffers)
            for name, t in store.items() if t is not None]


def _named_layers(module):
    """[(what its tensors' names begin with, layer)]"""
    named = []

    def visit(layer, prefix):
        named.append((prefix, layer))
        if _is_list(layer):
            children = _chain(layer)
        elif type(layer) in (Residual, Repeat):
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
    for prefix, layer in _named_layers(module):
        if hasattr(layer, "take_shapes"):
            layer.take_shapes({name.removeprefix(prefix): tensor for name, tensor in tensors.items()
                               if name.startswith(prefix)})
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
