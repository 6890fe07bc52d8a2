"""python/evariste.py: network files and modules both ways.
Run: python tests/python/test_evariste.py"""

import math
import sys
import tempfile
import tomllib
import unittest
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
import evariste  # noqa: E402
from evariste import NetworkError  # noqa: E402

EVERYTHING = """input = [3, 8, 8]
layer = [
  { type = "conv", out = 4, kernel = [3, 5], padding = [1, 2], padding_mode = "circular" },
  { type = "batchnorm" },
  { type = "relu" },
  { type = "residual", layer = [
    { type = "conv", out = 4, kernel = 3, padding = 1, groups = 2, bias = false },
    { type = "bias" },
    { type = "tanh" },
    { type = "scale" },
  ] },
  { type = "sum", of = [
    { type = "fc", out = 6, stride = 2 },
    [
      { type = "conv", out = 6, kernel = 3, padding = 2, dilation = 2 },
      { type = "polyphase" },
    ],
    { type = "factored_fc", out = 6, stride = 2 },
  ] },
  { type = "groupnorm", groups = 3 },
  { type = "elu", alpha = 0.5 },
  { type = "sum", scale = 1.0, of = [
    { type = "maxpool", kernel = 2 },
    { type = "avgpool", kernel = 3, stride = 2, padding = 1 },
  ] },
  { type = "gelu" },
  { type = "layernorm" },
  { type = "global_avgpool" },
  { type = "flatten" },
  { type = "dropout", p = 0.25 },
  { type = "linear", out = 5 },
  { type = "silu" },
  { type = "softplus", beta = 2.0 },
  { type = "linear", out = 2, bias = false },
  { type = "repeat", times = 3, layer = [
    { type = "linear", out = 2 },
    { type = "sigmoid" },
  ] },
]
"""


class NetworkFiles(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        torch.manual_seed(0)

    def load(self, text):
        path = self.folder / "given.toml"
        path.write_text(text, encoding="utf-8")
        return evariste.load_network(path)

    def layers(self, *lines, input_shape="[3, 8, 8]"):
        return self.load(f"input = {input_shape}\nlayer = [{', '.join(lines)}]\n")

    def refuses(self, pattern, *lines, input_shape="[3, 8, 8]"):
        with self.assertRaisesRegex(NetworkError, pattern):
            self.layers(*lines, input_shape=input_shape)

    def round_trip(self, module, input_shape):
        """module -> both files -> module; the outputs on a fixed input must be equal."""
        toml, weights = self.folder / "net.toml", self.folder / "w.safetensors"
        evariste.save_network(module, input_shape, toml)
        evariste.save_weights(module, weights)
        copy = evariste.load_weights(evariste.load_network(toml), weights)
        x = torch.randn(4, *input_shape)
        torch.testing.assert_close(copy.eval()(x), module.eval()(x), rtol=0, atol=0)
        return copy, toml.read_text(encoding="utf-8")

    def test_layers_with_anchors_and_of_groups_are_written_as_they_are_read(self):
        network = self.load("""input = [2, 4, 4]
layer = [
  { type = "sparse_conv", out = 3, kernel = 3, padding = 1, padding_mode = "circular", anchors = 0.8, omega = 0.7 },
  { type = "sparse_fc", out = 2, stride = 2, learn_omega = true },
  { type = "group_lift" },
  { type = "group_conv", out = 4, groups = 2, kernel = 1, mix = false },
  { type = "group_conv", out = 2, padding = 1, bias = false },
  { type = "group_pool" },
  { type = "flatten" },
]
""")
        copy, text = self.round_trip(network, (2, 4, 4))
        for words in ("anchors = 0.8, omega = 0.7", "learn_omega = true", "mix = false"):
            self.assertIn(words, text)
        for (name, mine), (_, other) in zip(network.state_dict().items(),
                                            copy.state_dict().items()):
            self.assertTrue(torch.equal(mine, other), name)

    def test_a_file_with_every_layer_is_written_back_word_for_word(self):
        network = self.load(EVERYTHING)
        _, text = self.round_trip(network, (3, 8, 8))
        self.assertEqual(text, EVERYTHING)

    def test_parameters_carry_the_names_of_the_contract(self):
        network = self.load(EVERYTHING)
        names = list(network.state_dict())
        self.assertEqual(names, [name for name, _ in evariste.named_tensors(network)])
        for name in ("0.weight", "0.bias", "1.running_mean", "3.0.weight", "3.1.bias", "3.3.weight",
                     "4.0.weight", "4.1.0.weight", "4.1.0.bias", "4.2.U", "4.2.bias_U", "4.2.V",
                     "4.2.bias_V", "13.weight", "16.weight"):
            self.assertIn(name, names)
        self.assertNotIn("16.bias", names)
        self.assertEqual(dict(network.named_parameters())["4.0.weight"].shape, (6 * 16, 4 * 64))
        self.assertEqual(dict(network.named_parameters())["4.2.U"].shape, (6, 4 * 64))
        self.assertEqual(dict(network.named_parameters())["4.2.V"].shape, (16, 6 * 4))

    def test_a_file_gives_the_same_outputs_as_the_plain_torch_module(self):
        network = self.layers(
            '{ type = "conv", out = 4, kernel = 3, stride = 2, padding = 1 }', '{ type = "tanh" }',
            '{ type = "conv", out = 2, kernel = [1, 3], padding = [0, 1],'
            ' padding_mode = "circular" }',
            '{ type = "maxpool", kernel = 2 }', '{ type = "flatten" }',
            '{ type = "linear", out = 5 }')
        plain = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Tanh(),
                              nn.Conv2d(4, 2, (1, 3), 1, (0, 1), padding_mode="circular"),
                              nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 5))
        plain.load_state_dict(network.state_dict())
        x = torch.randn(3, 3, 8, 8)
        torch.testing.assert_close(network(x), plain(x), rtol=0, atol=0)

    def test_absent_keys_have_the_defaults_of_torch(self):
        network = self.layers('{ type = "conv", out = 4, kernel = 3 }',
                              '{ type = "maxpool", kernel = 3 }', '{ type = "dropout" }',
                              '{ type = "flatten" }', '{ type = "linear", out = 2 }')
        conv, pool, dropout, linear = network[0], network[1], network[2], network[4]
        self.assertEqual((conv.stride, conv.padding, conv.dilation, conv.groups),
                         ((1, 1), (0, 0), (1, 1), 1))
        self.assertIsNotNone(conv.bias)
        self.assertEqual(pool.stride, (3, 3))
        self.assertEqual(dropout.p, 0.5)
        self.assertIsNotNone(linear.bias)

    def test_torch_modules_survive_the_way_through_a_file(self):
        for module, shape in (
                (nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.ReLU(inplace=True),
                               nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)), (1, 5, 4)),
                (nn.Sequential(nn.Conv1d(2, 4, 3, 2, 1, 1, 2), nn.GroupNorm(2, 4), nn.SiLU(),
                               nn.AvgPool1d(2), nn.Flatten(), nn.Linear(8, 2)), (2, 8)),
                (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU("tanh"),
                               nn.LayerNorm(6), nn.Dropout(0.1), nn.Linear(6, 2)), (4,))):
            copy, _ = self.round_trip(module, shape)
            self.assertEqual(list(copy.state_dict()), list(module.state_dict()))

    def test_keys_with_other_values_than_the_defaults_are_written(self):
        copy, text = self.round_trip(nn.Sequential(
            evariste.FactoredFC((2, 8, 8), 3, 2, bias=False), evariste.Polyphase(4),
            nn.ELU(0.5), nn.GELU("tanh"), nn.Softplus(2.0, 5.0), nn.Flatten()), (2, 8, 8))
        self.assertEqual(list(copy.state_dict()), ["0.U", "0.V"])
        for words in ("bias = false", "stride = 4", "alpha = 0.5", 'approximate = "tanh"',
                      "beta = 2.0, threshold = 5.0"):
            self.assertIn(words, text)

    def test_chains_inside_chains_are_opened_and_names_follow(self):
        inner = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Tanh())
        module = nn.Sequential(OrderedDict(body=inner, head=nn.Linear(4, 2)))
        copy, text = self.round_trip(module, (3,))
        self.assertEqual(list(copy.state_dict()), ["0.weight", "0.bias", "2.weight", "2.bias"])
        self.assertEqual(text.count("type"), 3)

    def test_float64_weights_are_kept_exactly(self):
        module = nn.Sequential(nn.Linear(3, 2)).double()
        evariste.save_network(module, (3,), self.folder / "net.toml")
        evariste.save_weights(module, self.folder / "w.safetensors")
        copy = evariste.load_network(self.folder / "net.toml").double()
        evariste.load_weights(copy, self.folder / "w.safetensors")
        self.assertTrue(torch.equal(copy[0].weight, module[0].weight))

    def test_saving_leaves_the_module_as_it_was(self):
        module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout())
        module[1].eval()
        before = {name: t.clone() for name, t in module.state_dict().items()}
        evariste.save_network(module, (3,), self.folder / "net.toml")
        self.assertEqual([m.training for m in module], [True, False, True])
        for name, tensor in module.state_dict().items():
            self.assertTrue(torch.equal(tensor, before[name]), name)

    def test_what_a_file_cannot_say_is_refused_by_name(self):
        for module, pattern in (
                (nn.LSTM(3, 2), "LSTM"),
                (nn.LeakyReLU(), "LeakyReLU"),
                (nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d: ceil_mode"),
                (nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"), "Conv2d: .*reflect"),
                (nn.AdaptiveAvgPool2d(2), "AdaptiveAvgPool2d: output_size"),
                (nn.Flatten(2), "Flatten: start_dim")):
            with self.assertRaisesRegex(NetworkError, pattern):
                evariste.save_network(nn.Sequential(module), (3, 8, 8), self.folder / "no.toml")
        self.assertFalse((self.folder / "no.toml").exists())

    def test_a_file_that_would_compute_something_else_is_not_written(self):
        # A file's global_avgpool gives [C] and its layernorm spans the whole sample.
        for layers in ((nn.AdaptiveAvgPool2d(1),), (nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1)),
                       (nn.LayerNorm(4),), (nn.LayerNorm(4, elementwise_affine=False),)):
            with self.assertRaises(NetworkError):
                evariste.save_network(nn.Sequential(*layers), (3, 4, 4), self.folder / "no.toml")
        self.assertFalse((self.folder / "no.toml").exists())

    def test_unknown_keys_and_types_name_the_nearest(self):
        self.refuses(r"layer\[0\] \(conv\): unknown key 'paddding'; did you mean 'padding'",
                     '{ type = "conv", out = 4, kernel = 3, paddding = 1 }')
        self.refuses("type = 'convv' is not known; did you mean 'conv'", '{ type = "convv" }')
        self.refuses(r"layer\[0\] \(sum\).of\[1\]\[0\] \(fc\): unknown key 'strid'.*'stride'",
                     '{ type = "sum", of = [{ type = "fc", out = 2 },'
                     ' [{ type = "fc", out = 2, strid = 1 }]] }')
        with self.assertRaisesRegex(NetworkError, "unknown key 'inputs'; did you mean 'input'"):
            self.load("inputs = [3]\ninput = [3]\nlayer = []\n")

    def test_wrong_values_are_refused_with_their_place(self):
        self.refuses("key 'out' is missing", '{ type = "linear" }')
        self.refuses("out = 2.5; expected a whole number from 1 to",
                     '{ type = "linear", out = 2.5 }')
        self.refuses("bias = 1; expected true or false", '{ type = "linear", out = 2, bias = 1 }')
        self.refuses("padding_mode = 'reflect'; expected \"zeros\" or \"circular\"",
                     '{ type = "conv", out = 1, kernel = 1, padding_mode = "reflect" }')
        self.refuses(r"kernel = \[1, 2, 3\]; expected a whole number or 2 of them",
                     '{ type = "conv", out = 1, kernel = [1, 2, 3] }')
        self.refuses(r"kernel \[9, 9\] does not fit into \[8, 8\]",
                     '{ type = "conv", out = 1, kernel = 9 }')
        self.refuses(r"stride = 3 must divide \[8, 8\]", '{ type = "fc", out = 1, stride = 3 }')
        self.refuses(r"stride = 2 must divide \[7, 8\]", '{ type = "polyphase" }',
                     input_shape="[3, 7, 8]")
        self.refuses(r"the body maps \[3, 8, 8\] to \[2, 8, 8\]",
                     '{ type = "residual", layer = [{ type = "fc", out = 2 }] }')
        self.refuses(r"of\[1\]: gives \[2, 4, 4\], the first pathway gives \[2, 8, 8\]",
                     '{ type = "sum", of = [{ type = "fc", out = 2 },'
                     ' { type = "fc", out = 2, stride = 2 }] }')
        self.refuses(r"needs an input \[C, H, W\], got \[5\]", '{ type = "fc", out = 2 }',
                     input_shape="[5]")
        self.refuses(r"layer\[0\] \(fc\): stride = 'a'; expected a whole number from 1",
                     '{ type = "fc", out = 1, stride = "a" }')
        self.refuses(r"layer\[0\] \(sum\).of = 3; expected a list of at least one layer",
                     '{ type = "sum", of = 3 }')
        self.refuses(r"layer\[0\] \(sum\): scale = 'x'; expected a finite number",
                     '{ type = "sum", of = [{ type = "relu" }], scale = "x" }')
        self.refuses(r"layer\[0\] \(dropout\): p = 3.0; expected 0 <= p < 1",
                     '{ type = "dropout", p = 3.0 }')
        self.refuses(r"layer\[0\] \(elu\): alpha = 9{19}; expected a finite number",
                     '{ type = "elu", alpha = 9999999999999999999 }')

    def test_steerable_convolutions_are_the_sum_of_their_kernels(self):
        network = self.layers('{ type = "steerable_conv", group = "C4", out = ["2 regular", "1 (1)"], '
                              'padding = 1 }, { type = "steerable_conv", out = "3 regular", '
                              'stride = 2, bias = false }, { type = "relu" }, '
                              '{ type = "field_pool" }, { type = "flatten" }',
                              input_shape="[2, 4, 4]")
        sizes = {"0.weight_0": (2, 10), "0.bias_0": (2,), "0.basis_0_0": (5, 4, 1, 3, 3),
                 "0.weight_1": (1, 6), "0.basis_1_0": (3, 2, 1, 3, 3),
                 "1.weight": (3, 2 * 7 + 4), "1.basis_0_0": (7, 4, 4, 3, 3),
                 "1.basis_0_1": (4, 4, 2, 3, 3)}
        tensors = {name: torch.randn(size) for name, size in sizes.items()}
        path = self.folder / "steerable.safetensors"
        save_file(tensors, path)
        evariste.load_weights(network, path)
        x = torch.randn(3, 2, 4, 4)

        def kernel(weight, basis, fields):  # by the sum of its definition
            rows = []
            for u in range(len(weight)):
                columns = []
                for f in range(fields):
                    own = weight[u, f * len(basis):(f + 1) * len(basis)]
                    columns.append(sum(w * b for w, b in zip(own, basis)))
                rows.append(torch.cat(columns, 1))
            return torch.cat(rows)

        first = torch.cat([kernel(tensors["0.weight_0"], tensors["0.basis_0_0"], 2),
                           kernel(tensors["0.weight_1"], tensors["0.basis_1_0"], 2)])
        bias = torch.cat([tensors["0.bias_0"].repeat_interleave(4), torch.zeros(2)])
        y = torch.nn.functional.conv2d(x, first, bias, padding=1)
        second = torch.cat([kernel(tensors["1.weight"][:, :14], tensors["1.basis_0_0"], 2),
                            kernel(tensors["1.weight"][:, 14:], tensors["1.basis_0_1"], 1)], 1)
        y = torch.nn.functional.conv2d(y, second, stride=2).relu()
        y = y.unflatten(1, (3, 4)).amax(2).flatten(1)
        torch.testing.assert_close(network(x), y, rtol=1e-4, atol=1e-4)
        copy = self.folder / "copy.toml"
        evariste.save_network(network, (2, 4, 4), copy)
        again = evariste.load_weights(evariste.load_network(copy), path)
        torch.testing.assert_close(again(x), network(x))

    def test_a_fourier_layer_acts_on_values_of_functions(self):
        network = self.layers('{ type = "fourier", group = "SO(2)", in = ["2 <1", "1 trivial"], '
                              'samples = 4 }, { type = "flatten" }', input_shape="[7, 2, 2]")
        there = torch.tensor([[1, math.sqrt(2) * math.cos(t), math.sqrt(2) * math.sin(t)]
                              for t in (0, math.pi / 2, math.pi, 3 * math.pi / 2)])
        tensors = {"0.0.basis_0": there, "0.0.basis_1": torch.ones(1, 1),
                   "0.2.basis_0": there.t().contiguous() / 4, "0.2.basis_1": torch.ones(1, 1)}
        path = self.folder / "fourier.safetensors"
        save_file(tensors, path)
        evariste.load_weights(network, path)
        x = torch.randn(5, 7, 2, 2)
        expected = [((x[:, 3 * f:3 * f + 3].movedim(1, -1) @ there.t()).relu() @ there / 4).movedim(-1, 1)
                    for f in range(2)]
        expected = torch.cat([*expected, x[:, 6:].relu()], 1).flatten(1)
        torch.testing.assert_close(network(x), expected)
        self.refuses("no functions on C4", '{ type = "fourier", group = "C4", in = "1 (1)" }',
                     input_shape="[2, 3, 3]")
        self.refuses("at least 5", '{ type = "fourier", group = "SO(2)", in = "1 <2", samples = 3 }',
                     input_shape="[5, 3, 3]")

    def test_the_density_of_a_degree_has_mean_one_and_the_means_of_its_irreps(self):
        theta = torch.tensor([0.3, -0.4, 0.2, 0.5], dtype=torch.float64)
        angles, values = evariste.degree_density("SO(2)", 2, theta)
        self.assertAlmostEqual(values.mean().item(), 1, places=12)
        turns = torch.stack([torch.cos(angles), -torch.sin(angles), torch.sin(angles), torch.cos(angles)])
        means = (values * turns).mean(1).view(2, 2)
        torch.testing.assert_close(means, evariste._expectations("SO(2)", 2, 2, theta)[1])
        # l = sqrt(2) (0.3 cos t - 0.4 sin t + ...): the largest value of each copy is where l is
        l = math.sqrt(2) * sum(theta[2 * k] * torch.cos((k + 1) * angles) + theta[2 * k + 1]
                               * torch.sin((k + 1) * angles) for k in range(2))
        torch.testing.assert_close(values[0], l.exp() / l.exp().mean())
        self.assertEqual(evariste.degree_density("D4", 2, [0.1] * 7)[1].shape, (2, 4))
        self.assertEqual(evariste.degree_density("O(2)", 1, [0.0] * 5)[1].shape[0], 2)

    def test_a_degree_scales_kernels_by_the_means_of_irreps(self):
        # Values of exact quadrature, the trivial coefficient left out (tests/groups/fourier_test.cpp).
        circle = evariste._expectations("SO(2)", 2, 4, torch.tensor([.5, .3, -.2, .1], dtype=torch.float64))
        self.assertEqual([len(m) for m in circle], [1, 2, 2, 2, 2])
        first = torch.tensor([[.41790464, -.34617991], [.34617991, .41790464]], dtype=torch.float64) / math.sqrt(2)
        torch.testing.assert_close(circle[1], first, rtol=0, atol=1e-8)
        turns = evariste._expectations("C4", 2, 2, torch.tensor([.6, -.3, .4], dtype=torch.float64))
        density = (2.49527459, .31399022, .45718942, .73354577)
        torch.testing.assert_close(turns[2].item(), sum(d * s for d, s in zip(density, (1, -1, 1, -1))) / 4,
                                   rtol=0, atol=1e-8)
        flips = evariste._expectations("O(2)", 1, 1, torch.tensor([.3, .4, -.2, .1, .25], dtype=torch.float64))
        torch.testing.assert_close(flips[1].item(), .39072155, rtol=0, atol=1e-8)
        of_one = torch.tensor([[.44781486, .15554384], [-.21598195, .35715770]], dtype=torch.float64) / math.sqrt(2)
        torch.testing.assert_close(flips[2], of_one, rtol=0, atol=1e-8)
        half = evariste._expectations("D2@45", 1, 1, torch.tensor([0., 2., 0.], dtype=torch.float64))
        self.assertEqual([len(m) for m in half], [1, 1, 1, 1])
        self.assertTrue(0.9 < half[2].item() < 1 and abs(half[1].item()) < 1e-12)

        network = self.layers('{ type = "steerable_conv", group = "C4", out = "2 trivial", degree = 1, isotypic = '
                              '"<2" }, { type = "flatten" }', input_shape="[1, 3, 3]")
        basis, theta = torch.randn(6, 1, 1, 3, 3), torch.tensor([.7, -.4])
        weight = torch.randn(2, 6)
        path = self.folder / "degree.safetensors"
        save_file({"0.weight": weight, "0.bias": torch.zeros(2), "0.basis": basis, "0.degree": theta,
                   "0.basis_copies": torch.tensor([2, 1, 2])}, path)
        evariste.load_weights(network, path)
        means = [m.float() for m in evariste._expectations("C4", 1, 2, theta)]
        scaled = torch.cat([basis[:2], torch.einsum("ab,aoixy->boixy", means[1], basis[2:4]),
                            means[2].item() * basis[4:]])
        torch.testing.assert_close(network[0].plain()[0], torch.einsum("un,noixy->uixy", weight, scaled))
        self.refuses("expected isotypic \"<1\"", '{ type = "steerable_conv", group = "C4", out = "1 regular", '
                     'degree = 1, isotypic = "(1)" }', input_shape="[1, 3, 3]")
        self.refuses("densities on SO\\(3\\) are known to the C\\+\\+ library only", '{ type = "steerable_conv3d", '
                     'group = "SO(3)", out = "1 (1)", degree = 1 }', input_shape="[1, 3, 3, 3]")

    def test_fields_that_do_not_fit_are_refused(self):
        self.refuses("key 'group' is missing", '{ type = "steerable_conv", out = "1 regular" }',
                     input_shape="[1, 4, 4]")
        self.refuses("SO\\(2\\) has no fields 'regular'",
                     '{ type = "steerable_conv", group = "SO(2)", out = "1 regular" }',
                     input_shape="[1, 4, 4]")
        self.refuses("fields of C8: 2 regular, but what comes in are fields of C4",
                     '{ type = "steerable_conv", group = "C4", out = "2 regular" }, { type = '
                     '"steerable_conv", group = "C8", in = "2 regular", out = "1 regular" }',
                     input_shape="[1, 9, 9]")
        self.refuses("has not the 3 channels",
                     '{ type = "field_pool", group = "C4", in = "1 regular" }',
                     input_shape="[3, 4, 4]")

    def test_batch_normalisation_of_fields_is_over_their_channels_too(self):
        network = self.layers('{ type = "steerable_conv", group = "C4", out = ["2 regular", "1 trivial"] }, '
                              '{ type = "batchnorm", eps = 0.01 }, { type = "flatten" }', input_shape="[1, 4, 4]")
        norm = network[1]
        x = torch.randn(5, 9, 2, 2)
        y = norm.train()(x)
        first = x[:, 4:8]
        expected = (first - first.mean()) / (first.var(unbiased=False) + 0.01).sqrt()
        torch.testing.assert_close(y[:, 4:8], expected, rtol=1e-5, atol=1e-5)
        self.assertEqual({name: tuple(p.shape) for name, p in norm.named_parameters()},
                         {"0.weight": (2,), "0.bias": (2,), "1.weight": (1,), "1.bias": (1,)})

    def test_a_plain_network_is_the_same_function(self):
        pathway = '{{ type = "steerable_conv", group = "C4", out = "2 regular", padding = 1, isotypic = "{}" }}'
        network = self.layers('{ type = "sum", of = [ ' + pathway.format("(0)") + ", [" + pathway.format("(2)") +
                              '] ] }, { type = "relu" }, { type = "residual", layer = [ { type = "steerable_conv", '
                              'group = "C4", in = "2 regular", out = "2 regular", padding = 1, padding_mode = '
                              '"circular", bias = false } ] }, { type = "field_pool" }, { type = "flatten" }',
                              input_shape="[1, 5, 5]")
        sizes = {"0.0.weight": (2, 6), "0.0.bias": (2,), "0.0.basis": (6, 4, 1, 3, 3), "0.1.0.weight": (2, 6),
                 "0.1.0.basis": (6, 4, 1, 3, 3), "2.0.weight": (2, 14), "2.0.basis": (7, 4, 4, 3, 3)}
        path = self.folder / "w.safetensors"
        save_file({name: torch.randn(size) for name, size in sizes.items()}, path)
        evariste.load_weights(network, path)
        x = torch.randn(3, 1, 5, 5)
        plain = evariste.plain_network(network)
        torch.testing.assert_close(plain(x), network(x), rtol=1e-5, atol=1e-5)
        self.assertEqual([type(m).__name__ for m in plain.children()],
                         ["Conv2d", "ReLU", "Residual", "FieldPool", "Flatten"])
        self.assertIsNone(plain[2][0].bias)
        self.assertTrue(any(isinstance(m, evariste.SteerableConv) for m in network.modules()))
        self.round_trip(plain, (1, 5, 5))

    def test_batch_normalisation_of_vectors_has_one_variance(self):
        network = self.layers('{ type = "fourier", group = "SO(2)", in = ["2 <1", "1 trivial"] }, '
                              '{ type = "batchnorm", eps = 0.01, momentum = 0.5 }, { type = "flatten" }',
                              input_shape="[7, 2, 2]")
        tensors = {"0.0.basis_0": torch.eye(3), "0.0.basis_1": torch.ones(1, 1), "0.2.basis_0": torch.eye(3),
                   "0.2.basis_1": torch.ones(1, 1), "1.0.basis": torch.tensor([[1.0], [0], [0]]),
                   "1.0.weight": torch.randn(2), "1.0.bias": torch.randn(2), "1.0.running_mean": torch.zeros(2, 1),
                   "1.0.running_var": torch.ones(2), "1.0.num_batches_tracked": torch.tensor(0),
                   "1.1.weight": torch.ones(1), "1.1.bias": torch.zeros(1), "1.1.running_mean": torch.zeros(1),
                   "1.1.running_var": torch.ones(1), "1.1.num_batches_tracked": torch.tensor(0)}
        path = self.folder / "norm.safetensors"
        save_file(tensors, path)
        evariste.load_weights(network, path)
        norm, x = network[1], torch.randn(5, 7, 2, 2)
        y = norm.train()(x)
        centred = x[:, 3:6].clone()
        mean = centred[:, 0].mean()
        centred[:, 0] -= mean
        var = centred.square().mean()
        expected = tensors["1.0.weight"][1] * centred / (var + 0.01).sqrt()
        expected[:, 0] += tensors["1.0.bias"][1]
        torch.testing.assert_close(y[:, 3:6], expected, rtol=1e-5, atol=1e-5)
        one = norm.get_submodule("0")
        torch.testing.assert_close(one.running_mean[1, 0], 0.5 * mean)
        torch.testing.assert_close(one.running_var[1], 0.5 + 0.5 * var * 60 / 59)
        y = norm.eval()(x)[:, 3:6]
        centred = x[:, 3:6].clone()
        centred[:, 0] -= one.running_mean[1]
        expected = tensors["1.0.weight"][1] * centred / (one.running_var[1] + 0.01).sqrt()
        expected[:, 0] += tensors["1.0.bias"][1]
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        self.round_trip(network, (7, 2, 2))

    def test_a_nonlinearity_of_lengths_scales_fields(self):
        network = self.layers('{ type = "norm_activation", group = "SO(2)", in = ["1 (1)", "1 trivial", "2 (2)"] }, '
                              '{ type = "norm_pool" }', input_shape="[7]")
        self.assertEqual({name: tuple(p.shape) for name, p in network.named_parameters()}, {"0.bias": (3,)})
        x = torch.tensor([[3.0, 4, -2, 0.3, -0.4, 0, 0]], requires_grad=True)
        torch.testing.assert_close(network[0](x), torch.tensor([[3.0, 4, 0, 0.3, -0.4, 0, 0]]))
        network[0].bias.data = torch.tensor([-2.0, 0.5, 1])
        y = network[0](x)
        torch.testing.assert_close(y, torch.tensor([[1.8, 2.4, 0, 0.6, -0.8, 0, 0]]))
        torch.testing.assert_close(network(x), torch.tensor([[3.0, 0, 1, 0]]))
        self.assertTrue(torch.autograd.grad(network(x).sum(), x)[0].isfinite().all())
        self.round_trip(network, (7,))
        squash = self.layers('{ type = "norm_activation", group = "SO(2)", in = ["1 (1)", "1 trivial"], '
                             'activation = "squash" }', input_shape="[3]")
        torch.testing.assert_close(squash(x[:, :3]), torch.tensor([[3 / 6, 4 / 6, -2 / 3]]))
        self.assertEqual(list(squash.parameters()), [])
        self.round_trip(squash, (3,))

    def test_a_tensor_product_stands_behind_its_factors(self):
        network = self.layers('{ type = "tensor_product", group = "SO(2)", in = ["2 (1)", "1 trivial"] }, '
                              '{ type = "norm_pool", in = ["2 (1)", "1 trivial", "2 (1)^2", "1 trivial"] }, '
                              '{ type = "flatten" }', input_shape="[5, 3, 3]")
        root = math.sqrt(0.5)
        tensors = {"0.basis_0": torch.tensor([[root, 0, root], [root, 0, -root], [0, 2 * root, 0]]),
                   "0.basis_1": torch.ones(1, 1)}
        path = self.folder / "product.safetensors"
        save_file(tensors, path)
        evariste.load_weights(network, path)
        x = torch.randn(4, 5, 3, 3)
        y = network[0](x)
        torch.testing.assert_close(y[:, :5], x)
        a, b = x[:, 2], x[:, 3]
        torch.testing.assert_close(y[:, 8:11], root * torch.stack([a * a + b * b, a * a - b * b, 2 * a * b], 1))
        torch.testing.assert_close(y[:, 11], x[:, 4].square())
        pooled = network[1](y)
        torch.testing.assert_close(pooled[:, 3:5], pooled[:, :2].square())
        self.round_trip(network, (5, 3, 3))

    def test_dropout_of_fields_drops_all_of_a_field(self):
        network = self.layers('{ type = "norm_activation", group = "C4", in = ["50 (1)", "20 trivial"] }, '
                              '{ type = "field_dropout", p = 0.25 }, { type = "flatten" }', input_shape="[120, 2, 2]")
        dropout, x = network[1].train(), torch.ones(9, 120, 2, 2)
        y = dropout(x)
        for part in (y[:, :100].unflatten(1, (50, 2)).flatten(2), y[:, 100:].flatten(2)):
            torch.testing.assert_close(part.amax(2), part.amin(2))
        self.assertEqual(y.unique().tolist(), [0, torch.tensor(4 / 3).item()])
        self.assertFalse(torch.equal(y[0], y[1]))
        self.assertTrue(torch.equal(dropout.eval()(x), x))
        self.round_trip(network, (120, 2, 2))
        evariste.save_network(nn.Sequential(nn.Dropout2d(0.3), nn.Flatten()), (2, 3, 3), self.folder / "drop.toml")
        self.assertEqual(evariste.load_network(self.folder / "drop.toml")[0].p, 0.3)

    def test_volumes_and_gates(self):
        network = self.layers('{ type = "steerable_conv3d", group = "SO(3)", padding = 1, '
                              'out = ["3 trivial", "1 (1)", "1 (2)"] }, { type = "gated", activation = "tanh" }, '
                              '{ type = "avgpool3d", kernel = 2 }, { type = "conv3d", out = 2, kernel = 2 }, '
                              '{ type = "flatten" }', input_shape="[1, 4, 4, 4]")
        self.assertEqual(evariste._TYPES["steerable_conv3d"][0], evariste._TYPES["steerable_conv"][0])
        sizes = {"0.weight_0": (3, 2), "0.bias_0": (3,), "0.basis_0_0": (2, 1, 1, 3, 3, 3),
                 "0.weight_1": (1, 1), "0.basis_1_0": (1, 3, 1, 3, 3, 3),
                 "0.weight_2": (1, 1), "0.basis_2_0": (1, 5, 1, 3, 3, 3),
                 "3.weight": (2, 9, 2, 2, 2), "3.bias": (2,)}
        tensors = {name: torch.randn(size) for name, size in sizes.items()}
        path = self.folder / "volumes.safetensors"
        save_file(tensors, path)
        evariste.load_weights(network, path)
        x = torch.randn(2, 1, 4, 4, 4)
        kernel = torch.cat([
            torch.einsum("un,noizyx->uoizyx", tensors[f"0.weight_{b}"], tensors[f"0.basis_{b}_0"]).flatten(0, 1)
            for b in range(3)])
        y = torch.nn.functional.conv3d(x, kernel, torch.cat([tensors["0.bias_0"], torch.zeros(8)]), padding=1)
        scalar, gates = y[:, :1].tanh(), y[:, 1:3].sigmoid()
        y = torch.cat([scalar, y[:, 3:6] * gates[:, :1], y[:, 6:] * gates[:, 1:]], 1)
        y = torch.nn.functional.avg_pool3d(y, 2)
        y = torch.nn.functional.conv3d(y, tensors["3.weight"], tensors["3.bias"]).flatten(1)
        torch.testing.assert_close(network(x), y, rtol=1e-4, atol=1e-4)
        copy = self.folder / "copy.toml"
        evariste.save_network(network, (1, 4, 4, 4), copy)
        again = evariste.load_weights(evariste.load_network(copy), path)
        torch.testing.assert_close(again(x), network(x))
        self.refuses("for each a trivial channel as its gate",
                     '{ type = "gated", group = "SO(2)", in = ["1 trivial", "1 (1)", "1 (2)"] }',
                     input_shape="[5, 3, 3]")

    def test_layers_of_the_grid_are_written_as_they_are_read(self):
        network = self.load("""input = [3, 9, 9]
layer = [
  { type = "mask", margin = 5.0 },
  { type = "blurpool" },
  { type = "concat", of = [
    { type = "relu" },
    [
      { type = "conv", out = 4, kernel = 3 },
      { type = "conv_transpose", out = 2, kernel = 3, dilation = 2, bias = false },
      { type = "blurpool", sigma = 1.0, stride = 1, padding = 2 },
    ],
  ] },
  { type = "upsample", size = [7, 9] },
  { type = "upsample", scale = 2.0, mode = "nearest" },
  { type = "flatten" },
]
""")
        copy, text = self.round_trip(network, (3, 9, 9))
        for words in ("margin = 5.0", "{ type = \"blurpool\" }", "sigma = 1.0, stride = 1, padding = 2",
                      "kernel = 3, dilation = 2, bias = false", "size = [7, 9]",
                      'scale = 2.0, mode = "nearest"'):
            self.assertIn(words, text)
        self.assertEqual(list(network.state_dict()), ["2.1.0.weight", "2.1.0.bias", "2.1.1.weight"])
        self.assertEqual(list(copy.state_dict()), list(network.state_dict()))
        x = torch.randn(2, 3, 9, 9)
        masked = network[0](x)
        self.assertTrue(torch.equal(masked[:, :, 2:7, 2:7], x[:, :, 2:7, 2:7]))
        self.assertLess(masked[:, :, 0, 0].abs().max(), 0.1 * x[:, :, 0, 0].abs().max())
        pooled = network[1](masked)
        line = (-0.5 * (torch.arange(-2.0, 3.0) / 0.66).square()).exp()
        window = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 5, 5)
        torch.testing.assert_close(pooled, torch.nn.functional.conv2d(masked, window, None, 2, 2, groups=3))
        both = network[2](pooled)
        torch.testing.assert_close(both[:, :3], pooled.relu(), rtol=0, atol=0)
        self.assertEqual(both.shape[1], 5)

    def test_upsampling_and_transposed_convolutions_of_torch_survive_the_way_through_a_file(self):
        for module, shape in (
                (nn.Sequential(nn.Upsample(scale_factor=2), nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2),
                               nn.Flatten()), (2, 3, 4)),
                (nn.Sequential(nn.Upsample(7, mode="bilinear"), nn.Flatten()), (2, 3, 4)),
                (nn.Sequential(nn.ConvTranspose3d(2, 3, 2, (1, 2, 1)), nn.Upsample((4, 3, 5), mode="trilinear"),
                               nn.Flatten()), (2, 2, 3, 2))):
            copy, _ = self.round_trip(module, shape)
            self.assertEqual(list(copy.state_dict()), list(module.state_dict()))
        for module in (nn.Upsample(7, mode="bicubic"), nn.Upsample(7, mode="bilinear", align_corners=True),
                       nn.Upsample(scale_factor=1.3, mode="bilinear")):
            with self.assertRaises(NetworkError):
                evariste.save_network(nn.Sequential(module, nn.Flatten()), (2, 4, 4), self.folder / "no.toml")
        self.refuses("less than stride or dilation",
                     '{ type = "conv_transpose", out = 2, kernel = 3, output_padding = 1 }')

    def test_transposed_steerable_convolutions_have_the_kernels_of_the_others(self):
        network = self.layers('{ type = "steerable_conv_transpose", group = "C4", out = "2 regular", stride = 2, '
                              'padding = 1, output_padding = 1 }, { type = "flatten" }', input_shape="[3, 4, 4]")
        tensors = {"0.weight": torch.randn(2, 18), "0.bias": torch.randn(2), "0.basis": torch.randn(6, 4, 1, 3, 3)}
        path = self.folder / "steerable.safetensors"
        save_file(tensors, path)
        evariste.load_weights(network, path)
        kernel = torch.einsum("ufn,noiyx->uofiyx", tensors["0.weight"].view(2, 3, 6), tensors["0.basis"])
        kernel = kernel.reshape(8, 3, 3, 3).transpose(0, 1)
        x = torch.randn(2, 3, 4, 4)
        expected = torch.nn.functional.conv_transpose2d(x, kernel, tensors["0.bias"].repeat_interleave(4), 2, 1, 1)
        torch.testing.assert_close(network(x), expected.flatten(1), rtol=1e-4, atol=1e-4)
        plain = evariste.plain_network(network)
        self.assertIs(type(plain[0]), nn.ConvTranspose2d)
        torch.testing.assert_close(plain(x), network(x), rtol=1e-5, atol=1e-5)
        self.round_trip(plain, (3, 4, 4))
        evariste.save_network(network, (3, 4, 4), self.folder / "copy.toml")
        again = evariste.load_weights(evariste.load_network(self.folder / "copy.toml"), path)
        torch.testing.assert_close(again(x), network(x))

    def test_restricted_fields_are_rearranged_as_the_weights_file_says(self):
        network = self.layers('{ type = "restrict", group = "C4", from = "D4", in = ["2 regular", "1 (1,1)"] }, '
                              '{ type = "steerable_conv", in = ["4 regular", "1 (1)"], out = "1 regular" }, '
                              '{ type = "flatten" }', input_shape="[18, 3, 3]")
        basis, order = torch.linalg.qr(torch.randn(8, 8).double()).Q.contiguous(), torch.randperm(18)
        tensors = {"0.basis_0": basis, "0.basis_1": torch.eye(2, dtype=torch.float64), "0.basis_order": order,
                   "1.weight": torch.randn(1, 10), "1.bias": torch.randn(1),
                   "1.basis_0_0": torch.randn(2, 4, 4, 3, 3), "1.basis_0_1": torch.randn(2, 4, 2, 3, 3)}
        path = self.folder / "w.safetensors"
        save_file(tensors, path)
        evariste.load_weights(network, path)
        x = torch.randn(2, 18, 3, 3)
        fields = torch.einsum("bfdyx,ed->bfeyx", x[:, :16].unflatten(1, (2, 8)), basis.float()).flatten(1, 2)
        torch.testing.assert_close(network[0](x), torch.cat([fields, x[:, 16:]], 1)[:, order])
        evariste.save_network(network, (18, 3, 3), self.folder / "copy.toml")
        again = evariste.load_weights(evariste.load_network(self.folder / "copy.toml"), path)
        torch.testing.assert_close(again(x), network(x))
        self.refuses("known to the C\\+\\+ library only; expected out",
                     '{ type = "restrict", group = "D1", from = "D4", in = "1 /C2" }', input_shape="[4, 3, 3]")
        self.layers('{ type = "restrict", group = "D1", from = "D4", in = "1 /C2", out = "2 regular" }, '
                    '{ type = "flatten" }', input_shape="[4, 3, 3]")

    def test_both_readers_know_the_same_keys_and_values(self):
        # tests/nn/network_file_test.cpp holds the other reader to the same file.
        with open(ROOT / "tests/nn/network_files.toml", "rb") as file:
            shared = tomllib.load(file)
        self.assertEqual(set(shared["keys"]), set(evariste._TYPES))
        for type_name, entry in shared["keys"].items():
            keys = set(entry["network"]["layer"][0]) - {"type"}
            self.assertEqual(keys, set(evariste._TYPES[type_name][0]), type_name)
        for entry in (*shared["keys"].values(), *shared["accepted"]):
            network = evariste.build_network(entry["network"], "net.toml", 10).eval()
            if any(hasattr(m, "take_shapes") for m in network.modules()):
                with self.assertRaisesRegex(NetworkError, "no kernels before load_weights"):
                    network(torch.zeros(2, *network.input_shape))
                continue
            self.assertEqual(network(torch.zeros(2, *network.input_shape)).dim(), 2)
        for entry in shared["refused"]:
            with self.subTest(entry), self.assertRaises(NetworkError) as caught:
                evariste.build_network(entry["network"], "net.toml", 10)
            self.assertTrue(str(caught.exception).startswith("net.toml: "), caught.exception)
            self.assertIn(entry["says"], str(caught.exception))

    def test_the_network_may_stand_under_a_table_of_an_experiment(self):
        network = self.load('seed = 3\n[network]\ninput = [2]\n'
                            'layer = [{ type = "linear", out = 1 }]\n')
        self.assertEqual(network(torch.zeros(1, 2)).shape, (1, 1))

    def test_an_experiments_file_gives_a_network_as_wide_as_its_labels(self):
        path = ROOT / "experiments/layerwise/layerwise.toml"
        network = evariste.load_network(path, classes=10)
        self.assertEqual(network(torch.zeros(2, 1, 32, 32)).shape, (2, 10))
        with self.assertRaisesRegex(NetworkError, r'layer\[11\] \(linear\): out = "classes" needs '
                                                  r"the number of labels.*classes=10"):
            evariste.load_network(path)
        for classes in (0, 2.5):
            with self.assertRaisesRegex(NetworkError, f"classes = {classes}; expected a whole"):
                evariste.load_network(path, classes)

    def test_weights_that_do_not_fit_are_refused(self):
        network = self.layers('{ type = "linear", out = 2 }', input_shape="[3]")
        path = self.folder / "w.safetensors"
        good = network.state_dict()
        for change, pattern in (
                ({"0.weights": torch.zeros(1)},
                 "'0.weights' is not in the network; did you mean '0.weight'"),
                ({"0.bias": None}, "'0.bias' is missing"),
                ({"0.bias": torch.zeros(3)}, r"'0.bias' is \[3\]; the network has")):
            wrong = {k: v for k, v in {**good, **change}.items() if v is not None}
            save_file(wrong, str(path))
            with self.assertRaisesRegex(NetworkError, pattern):
                evariste.load_weights(network, path)

    def test_weights_are_written_under_their_names(self):
        network = self.load(EVERYTHING)
        evariste.save_weights(network, self.folder / "w.safetensors")
        written = load_file(str(self.folder / "w.safetensors"))
        self.assertEqual(set(written), set(network.state_dict()))


class Layers(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def test_a_sum_is_the_mean_of_its_pathways_unless_scaled(self):
        paths = [nn.Linear(3, 2), nn.Linear(3, 2)]
        x = torch.randn(4, 3)
        total = paths[0](x) + paths[1](x)
        torch.testing.assert_close(evariste.Sum(paths)(x), total / 2)
        torch.testing.assert_close(evariste.Sum(paths, scale=3.0)(x), 3 * total)

    def test_a_residual_adds_its_input(self):
        body, x = nn.Linear(3, 3), torch.randn(4, 3)
        torch.testing.assert_close(evariste.Residual(body, nn.Tanh())(x), x + body(x).tanh())

    def test_a_repeat_uses_its_body_again(self):
        body, x = nn.Linear(3, 3), torch.randn(4, 3)
        y = body(body(x).tanh()).tanh()
        torch.testing.assert_close(evariste.Repeat(body, nn.Tanh(), times=2)(x), y)

    def test_fc_is_linear_in_the_flattened_image(self):
        fc = evariste.FC((2, 4, 4), 3, 2)
        nn.init.normal_(fc.bias)
        x = torch.randn(5, 2, 4, 4)
        y = (x.flatten(1) @ fc.weight.T + fc.bias).view(5, 3, 2, 2)
        torch.testing.assert_close(fc(x), y)

    def test_a_convolution_with_anchors_has_its_published_sum(self):
        def ramp(shape, s):
            return torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + s).view(shape)

        layer = evariste.SparseConv(2, 3, 3, 1, "circular", 4 / 9, bias=False).double()
        layer.anchors = torch.tensor([[0, 0], [-.5, .5], [.8, .2], [-.9, -.7]],
                                     dtype=torch.float64)
        layer.weight.data = ramp((3, 2, 4), 0.5)
        self.assertAlmostEqual(layer(ramp((2, 2, 4, 4), 0.1)).sum().item(), 13.346236026943249)

    def test_group_convolutions_commute_with_quarter_turns(self):
        def turned(x):
            return x.unflatten(1, (4, -1)).rot90(1, (3, 4)).roll(1, 1).flatten(1, 2)

        x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
        for groups, mix in ((1, True), (2, True), (1, False), (2, False)):
            layer = evariste.GroupConv(2, 4, 3, 1, "circular", groups, mix).double()
            torch.testing.assert_close(layer(turned(x)), turned(layer(x)))

    def test_factored_fc_equals_the_sum_over_its_indices(self):
        layer = evariste.FactoredFC((2, 2, 2), 3).double()
        for p in layer.parameters():
            nn.init.normal_(p)
        x = torch.randn(1, 2, 2, 2, dtype=torch.float64)
        u, v, flat = layer.U.view(3, 2, 4), layer.V.view(4, 3, 2), x.view(2, 4)
        for d in range(3):
            for y in range(4):
                expected = layer.bias_V[y]
                for c in range(2):
                    z = sum(u[d, c, i] * flat[c, i] for i in range(4)) + layer.bias_U[d]
                    expected = expected + v[y, d, c] * z
                torch.testing.assert_close(layer(x).view(3, 4)[d, y], expected)

    def test_polyphase_keeps_the_phase_of_the_largest_entry_of_each_sample(self):
        x = torch.zeros(2, 3, 4, 4)
        x[0, 1, 2, 1] = 1.0  # rows even, columns odd: phase (0, 1)
        x[1, 2, 3, 2] = 1.0  # phase (1, 0)
        x[1, 0, 0, 0] = 0.5
        y = evariste.Polyphase()(x)
        self.assertTrue(torch.equal(y[0], x[0, :, 0::2, 1::2]))
        self.assertTrue(torch.equal(y[1], x[1, :, 1::2, 0::2]))

    def test_polyphase_ties_go_to_rows_before_columns(self):
        # The second channel marks the four phases, below every maximum.
        mark = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
        tied = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]],
                             [[0.0, 1.0], [0.0, 1.0]]])
        x = torch.stack([tied, mark.expand(3, 2, 2)], 1)
        kept = evariste.Polyphase()(x)[:, 1, 0, 0].tolist()
        self.assertEqual(kept, [-1.0, -3.0, -2.0])  # (0,0), then (1,0) before (0,1), then (0,1)

    def test_a_shift_by_the_stride_shifts_polyphase_by_one(self):
        for stride in (2, 3):
            layer, x = evariste.Polyphase(stride), torch.randn(3, 2, 2 * stride, 4 * stride)
            shifted = layer(torch.roll(x, (stride, -stride), (2, 3)))
            self.assertTrue(torch.equal(shifted, torch.roll(layer(x), (1, -1), (2, 3))))

    def test_polyphase_is_equivariant_to_every_shift(self):
        x = torch.randn(2, 3, 6, 6)
        y = evariste.Polyphase()(x)
        shifted = evariste.Polyphase()(torch.roll(x, (1, 3), (2, 3)))
        torch.testing.assert_close(shifted.flatten(2).sort(2).values, y.flatten(2).sort(2).values)


class RunFiles(unittest.TestCase):
    def test_groups_of_a_run_file_open_as_data_sets(self):
        import xarray

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.h5"
            for i, group in enumerate(("trace", "controls/map/trace")):
                data = xarray.Dataset({"log_evidence": ("epoch", [1.0 + i, 2.0])},
                                      {"epoch": [0, 1]})
                data.to_netcdf(path, mode="a" if i else "w", group=group, engine="h5netcdf")
            run = evariste.open_run(folder)
            self.assertEqual(set(run), {"trace", "controls/map/trace"})
            self.assertEqual(run["controls/map/trace"].log_evidence.sel(epoch=0).item(), 2.0)
            path.unlink()  # everything was read


if __name__ == "__main__":
    unittest.main()
