"""What brute force sees of a network, and its Kronecker blocks written out as dense matrices.

`Seen` holds outputs, Jacobians and, per layer and sample, the inputs a and output gradients g.
`KronBlocks` builds B (x) A from them by definition, with the weight W [out, in] row-major, so that
B is the slow index and A the fast one. A carries the 1/N, B is a sum over the data set.
`EkfacBlocks` keeps the eigenvectors of these factors and takes the eigenvalues from the Jacobians.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
import evariste  # noqa: E402


class Refused(Exception):
    """A combination of flags that `evidence` must refuse with exit code 2."""


class Undefined(Exception):
    """A combination that this script has no definition for; `evidence` may do as it likes."""


# ---------------------------------------------------------------- what every sample saw

@dataclass
class Layer:
    """One layer with parameters, and what every sample saw there. T positions, I inputs, O outputs;
    `a` [N][T, I] inputs, `g` [N][C, T, O] gradient of each network output at the layer's output."""

    module: nn.Module
    weight: str  # names of its tensors in the network file, "" where there is none
    bias: str
    a: list
    g: list
    kept: list  # per sample, the positions that a polyphase layer after it keeps; None: all


def patches(module, x):
    """[T, C_in k] (order c, ky, kx) of one sample x [C, ...] as the convolution itself reads it."""
    one_dimensional = isinstance(module, nn.Conv1d)
    if one_dimensional:
        x = x.unsqueeze(1)
    kernel, stride, padding, dilation = (
        (front, *value) if one_dimensional else value
        for front, value in ((1, module.kernel_size), (1, module.stride), (0, module.padding),
                             (1, module.dilation)))
    mode = "circular" if module.padding_mode == "circular" else "constant"
    around = (padding[1], padding[1], padding[0], padding[0])
    x = F.pad(x.unsqueeze(0), around, mode=mode)
    return F.unfold(x, kernel, dilation, 0, stride)[0].T


def kept_positions(y, s):
    """Positions (row-major in H W) of the phase of y [D, H, W] with the largest maximum entry; of
    equal ones the first, columns before rows."""
    height, width = y.shape[1:]
    index = torch.arange(height * width).view(height, width)
    best = None
    for i, j in ((i, j) for j in range(s) for i in range(s)):
        top = y[:, i::s, j::s].max().item()
        if best is None or top > best[0]:
            best = (top, index[i::s, j::s].flatten())
    return best[1]


def layers_of(module, prefix=""):
    """[(module, prefix, stride of a polyphase layer behind or 0)] of all layers with parameters of
    their own."""
    found = []
    children = list(module.named_children())
    chain = isinstance(module, nn.Sequential)
    for i, (name, child) in enumerate(children):
        after = children[i + 1][1] if chain and i + 1 < len(children) else None
        if any(True for _ in child.parameters(recurse=False)):
            found.append((child, f"{prefix}{name}.",
                          after.stride if isinstance(after, evariste.Polyphase) else 0))
        found.extend(layers_of(child, f"{prefix}{name}."))
    return found


class Seen:
    """Outputs, Jacobians and per-layer inputs and gradients of a data set; independent of options.

    f [N, C], J [N, C, D] with theta in the order of the state_dict."""

    def __init__(self, network, x):
        names = [name for name, _ in network.named_parameters()]
        parameters = [p for _, p in network.named_parameters()]
        self.layers = []
        hooks, record = [], {}
        for module, prefix, subsampled in layers_of(network):
            weight, bias = ("bias" if isinstance(module, evariste.Bias) else "weight"), "bias"
            self.layers.append((Layer(module, prefix + weight if prefix + weight in names else "",
                                      prefix + bias if prefix + bias in names else "", [], [], []),
                                subsampled, prefix))
            hooks.append(module.register_forward_hook(
                lambda m, inputs, output, record=record: record.__setitem__(
                    m, (inputs[0].detach(), output))))
        f, jacobian = [], []
        for sample in x:
            record.clear()
            output = network(sample.unsqueeze(0))[0]
            outputs = [record[layer.module][1] for layer, _, _ in self.layers]
            rows, gradients = [], [[] for _ in self.layers]
            for value in output:
                grads = torch.autograd.grad(value, parameters + outputs, retain_graph=True,
                                            materialize_grads=True)
                rows.append(torch.cat([g.flatten() for g in grads[:len(parameters)]]))
                for store, g in zip(gradients, grads[len(parameters):]):
                    store.append(g[0])
            f.append(output.detach())
            jacobian.append(torch.stack(rows))
            for (layer, subsampled, _), store in zip(self.layers, gradients):
                inputs, out = record[layer.module]
                self._see(layer, inputs[0], torch.stack(store), out[0].detach(), subsampled)
                self._check(layer, dict(zip(names, torch.split(
                    jacobian[-1], [p.numel() for p in parameters], 1))))
        for hook in hooks:
            hook.remove()
        self.f = torch.stack(f)
        self.J = torch.stack(jacobian)

    @staticmethod
    def _see(layer, x, g, y, subsampled):
        """x, y without batch, g [C, ...] -> one entry of a, g and kept, by type of layer."""
        module, kept = layer.module, None
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            a, g = patches(module, x), g.flatten(2).transpose(1, 2)
            if subsampled:
                kept = kept_positions(y, subsampled)
        elif isinstance(module, nn.Linear):
            a, g = x.reshape(-1, x.shape[-1]), g.reshape(len(g), -1, g.shape[-1])
        elif isinstance(module, evariste.FC):
            a, g = x.reshape(1, -1), g.reshape(len(g), 1, -1)
        elif isinstance(module, evariste.FactoredFC):
            a, g = x.flatten(1), g.flatten(2)  # [C_in, X] and [C, D, Y]
        else:
            a = None
        layer.a.append(a)
        layer.g.append(g)
        layer.kept.append(kept)

    @staticmethod
    def _check(layer, rows):
        """sum_t g_t a_t' is the Jacobian of the weight and sum_t g_t that of the bias: if not, the
        inputs or their order are wrong, and every Kronecker factor with them."""
        if layer.a[-1] is None or isinstance(layer.module, evariste.FactoredFC):
            return
        a, g, groups = layer.a[-1], layer.g[-1], getattr(layer.module, "groups", 1)
        pairs = zip(g.chunk(groups, 2), a.chunk(groups, 1))
        product = torch.cat([torch.einsum("cto,ti->coi", gq, aq).flatten(1) for gq, aq in pairs], 1)
        torch.testing.assert_close(product, rows[layer.weight], rtol=1e-10, atol=1e-12)
        if layer.bias:
            torch.testing.assert_close(g.sum(1), rows[layer.bias], rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- Kronecker blocks by definition

def kron(b, a):
    """B (x) A for row-major vec(W), W [out, in]."""
    return torch.kron(b.contiguous(), a.contiguous())


def square(g, curvature):
    """sum_cc' Lambda_cc' g_c g_c'^T, g [C, O]: what the columns of any root of Lambda sum to."""
    return torch.einsum("co,cd,dp->op", g, curvature, g)


@dataclass
class Pair:
    """The factors B [O, O] and A [I, I] of a part of a block, and `rows` [O, I]: the places in the
    block of what they multiply."""

    B: torch.Tensor
    A: torch.Tensor
    rows: torch.Tensor


def lone(B):
    """The pair of a block without an input factor."""
    return Pair(B, torch.ones(1, 1, dtype=B.dtype), torch.arange(len(B)).unsqueeze(1))


class KronBlocks:
    """The blocks of `--structure kron` of one network, each as a dense matrix."""

    def __init__(self, seen, curvature, options):
        self.seen, self.curvature, self.options = seen, curvature, options
        self.n = len(curvature)
        if options.sharing == "reduce" and options.bias == "expand":
            raise Refused("--sharing reduce with --bias expand is refused")

    def matrices(self):
        """[(name, tensor names, [P, P])] in the order of the blocks."""
        found = []
        for name, tensors, pairs in self.blocks():
            size = sum(pair.rows.numel() for pair in pairs)
            matrix = torch.zeros(size, size, dtype=torch.float64)
            for pair in pairs:
                rows = pair.rows.flatten()
                matrix[rows.unsqueeze(1), rows] = self.written_out(pair, tensors)
            found.append((name, tensors, matrix))
        return found

    def written_out(self, pair, tensors):
        """The dense matrix of one pair of the block of these tensors."""
        del tensors
        return kron(pair.B, pair.A)

    def blocks(self):
        """[(name, tensor names, [Pair])] in the order of the blocks."""
        blocks = []
        for layer, _, prefix in self.seen.layers:
            if isinstance(layer.module, evariste.FactoredFC):
                blocks += self.factored(layer, prefix)
            elif isinstance(layer.module, (nn.Conv1d, nn.Conv2d, nn.Linear, evariste.FC)):
                blocks += self.shared(layer)
            else:
                blocks += self.elementwise(layer)
        return blocks

    def shared(self, layer):
        """Linear and convolution: the plain, expand and reduce rules, per group of channels."""
        opt, groups = self.options, getattr(layer.module, "groups", 1)
        joint = opt.bias == "joint" and bool(layer.bias)
        if groups > 1 and opt.bias == "expand" and layer.bias:
            raise Refused("grouped convolution with --bias expand is refused")
        weights, bias = [], 0
        out, width = layer.g[0].shape[2], layer.a[0].shape[1] // groups
        index = torch.arange(out * width).view(out, width)
        if joint:  # theta holds W first and b after it
            index = torch.cat([index, out * width + torch.arange(out).unsqueeze(1)], 1)
        for q in range(groups):
            A, B = 0, 0
            for n in range(self.n):
                a, g = self._group(layer, n, q, groups)
                if joint:
                    a = torch.cat([a, a.new_ones(len(a), 1)], 1)
                positions = len(a)
                if opt.sharing == "reduce":
                    mean = a.mean(0)
                    A = A + torch.outer(mean, mean) / self.n
                    B = B + square(g.sum(1), self.curvature[n])
                else:
                    A = A + a.T @ a / self.n
                    B = B + sum(square(g[:, t], self.curvature[n]) for t in range(positions)) \
                        / positions
            weights.append(Pair(B, A, index.chunk(groups)[q]))
        for n in range(self.n):
            _, g = self._group(layer, n, 0, 1)
            if opt.bias == "expand":
                bias = bias + sum(square(g[:, t], self.curvature[n]) for t in range(g.shape[1]))
            else:
                bias = bias + square(g.sum(1), self.curvature[n])
        if joint:
            return [(f"{layer.weight}+bias", [layer.weight, layer.bias], weights)]
        blocks = [(layer.weight, [layer.weight], weights)]
        return blocks + ([(layer.bias, [layer.bias], [lone(bias)])] if layer.bias else [])

    def _group(self, layer, n, q, groups):
        a, g = layer.a[n], layer.g[n]
        if layer.kept[n] is not None and self.options.positions == "selected":
            a, g = a[layer.kept[n]], g[:, layer.kept[n]]
        i, o = a.shape[1] // groups, g.shape[2] // groups
        return a[:, q * i:(q + 1) * i], g[:, :, q * o:(q + 1) * o]

    def factored(self, layer, prefix):
        """F-FC, grouped rule: U has a pair (B, A) per input channel, V one per output channel."""
        if self.options.bias == "joint":
            raise Undefined("factored_fc has no joint form: bias_U is shared by the groups of U")
        module = layer.module
        out, channels = module.out_shape[0], module.in_shape[0]
        pixels, kept = math.prod(module.in_shape[1:]), math.prod(module.out_shape[1:])
        U = module.U.detach().view(out, channels, pixels)
        V = module.V.detach().view(kept, out, channels)
        index_u = torch.arange(U.numel()).view(U.shape)
        index_v = torch.arange(V.numel()).view(V.shape)
        hu, hv = [], []
        bias_u, bias_v = (torch.zeros(n, n, dtype=U.dtype) for n in (out, kept))
        z = [torch.einsum("dcx,cx->cd", U, a) + module.bias_U.detach() for a in layer.a]
        gz = [torch.einsum("kdy,ydc->kcd", g, V) for g in layer.g]  # [C, C_in, D]
        for c in range(channels):
            B = sum(square(gz[n][:, c], self.curvature[n]) for n in range(self.n))
            A = sum(torch.outer(a[c], a[c]) for a in layer.a) / self.n
            hu.append(Pair(B, A, index_u[:, c]))
        for d in range(out):
            B = sum(square(layer.g[n][:, d], self.curvature[n]) for n in range(self.n))
            A = sum(torch.outer(z[n][:, d], z[n][:, d]) for n in range(self.n)) / self.n
            hv.append(Pair(B, A, index_v[:, d]))
        for n in range(self.n):
            if self.options.bias == "expand":
                bias_u += sum(square(gz[n][:, c], self.curvature[n]) for c in range(channels))
                bias_v += sum(square(layer.g[n][:, d], self.curvature[n]) for d in range(out))
            else:
                bias_u += square(gz[n].sum(1), self.curvature[n])
                bias_v += square(layer.g[n].sum(1), self.curvature[n])
        return [(f"{prefix}U", [f"{prefix}U"], hu),
                (f"{prefix}bias_U", [f"{prefix}bias_U"], [lone(bias_u)]),
                (f"{prefix}V", [f"{prefix}V"], hv),
                (f"{prefix}bias_V", [f"{prefix}bias_V"], [lone(bias_v)])]

    def elementwise(self, layer):
        """Affine part of norms and the scalar layers, read off the Jacobian: of the scale the exact
        diagonal, of the shift what any bias has; jointly the exact 2 x 2 of every channel."""
        if self.options.bias == "joint" and layer.weight and layer.bias:
            rows = torch.stack([self.seen.rows[layer.weight], self.seen.rows[layer.bias]], 1)
            pairs = []
            for i, channel in enumerate(rows):  # theta holds all scales and the shifts after them
                J = self.seen.J[:, :, channel]
                exact = torch.einsum("ncp,ncd,ndq->pq", J, self.curvature, J)
                pairs.append(Pair(J.new_ones(1, 1), exact, torch.tensor([[i, len(rows) + i]])))
            return [(f"{layer.weight}+bias", [layer.weight, layer.bias], pairs)]
        blocks = []
        for name in dict.fromkeys(filter(None, (layer.weight, layer.bias))):
            J = self.seen.J[:, :, self.seen.rows[name]]
            if name == layer.bias and self.options.bias == "expand" and J.shape[2] > 1:
                grads = [g.reshape(len(g), J.shape[2], -1) for g in layer.g]
                matrix = sum(square(g[:, :, t], self.curvature[n])
                             for n, g in enumerate(grads) for t in range(g.shape[2]))
            else:
                matrix = torch.einsum("ncp,ncd,ndq->pq", J, self.curvature, J)
            pairs = [lone(matrix)]
            if name != layer.bias:
                pairs = [Pair(value.view(1, 1), torch.ones(1, 1, dtype=value.dtype),
                              torch.tensor([[i]])) for i, value in enumerate(matrix.diagonal())]
            blocks.append((name, [name], pairs))
        return blocks


class EkfacBlocks(KronBlocks):
    """The blocks of `--structure ekfac`: U diag(s) U^T per pair, with U = U_B (x) U_A of complete
    bases of eigenvectors of the factors of KronBlocks, and
        s_ij = sum_nk (U_B^T G_nk U_A)_ij^2,
    G_nk the gradient of sample n in the pair's [O, I] along column k of the root of Lambda_n: the
    diagonal of the exact block in the basis U. So the trace is exact, no correction applies, and a
    block that KronBlocks has exact (a bias, a scalar, the scale of a norm) stays as it is. With
    --bias expand a bias has the basis of its expanded factor, and s is exact in it.

    U diag(s) U^T is unique where the eigenvalues are simple: each vector up to a sign, which s
    squares. Where one repeats, vectors may mix, and s must be constant on what they span:
    - 0, with fewer samples than inputs or a dead unit. A v = 0 is a_nt^T v = 0 for all n and t, so
      G_nk v = sum_t g_nkt a_nt^T v = 0, and s = 0 in any basis; so too of B, as B v = 0 is
      g_nkt^T v = 0. Factors of --sharing reduce have a larger null space, where s need not be 0:
      they are refused.
    - all of B of the last linear layer, or a block of its bias, under a Gaussian likelihood: there
      G_nk = e_k a_n^T / sigma, and s_ij is the same for all i.
    Any other repeated eigenvalue leaves the block undefined: cases must not have one."""

    def __init__(self, seen, curvature, options):
        super().__init__(seen, curvature, options)
        if options.sharing == "reduce":
            raise Refused("--sharing reduce with --structure ekfac is refused")

    def written_out(self, pair, tensors):
        rows = torch.cat([self.seen.rows[t] for t in tensors])[pair.rows]
        G = self.seen.J[:, :, rows]  # [N, C, O, I]: before the root, sum_k G_nk^2 = G^T Lambda G
        (_, U_B), (_, U_A) = torch.linalg.eigh(pair.B), torch.linalg.eigh(pair.A)
        G = torch.einsum("oi,ncop,pj->ncij", U_B, G, U_A)
        s = torch.einsum("ncij,ncd,ndij->ij", G, self.curvature, G)
        U = kron(U_B, U_A)
        return (U * s.flatten()) @ U.T
