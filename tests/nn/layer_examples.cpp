#include "tests/nn/layer_examples.h"

#include "laplace/curvature.h"
#include "nn/averaged.h"

namespace evariste {

const std::vector<LayerExample>& layer_examples() {
  const std::string image = "[2, 4, 4]";
  const std::string conv = "{ type = 'conv', out = 3, kernel = 3, padding = 1 }, ";
  static const std::vector<LayerExample> list = {
      {"linear", "vector", "[4]", "{ type = 'linear', out = 5 }, { type = 'tanh' }"},
      {"linear", "shared over positions", "[3, 4]", "{ type = 'linear', out = 2 }"},
      {"linear", "without bias", "[4]", "{ type = 'linear', out = 5, bias = false }"},
      {"conv", "zero padding", image, conv + "{ type = 'tanh' }"},
      {"conv", "circular", image,
       "{ type = 'conv', out = 3, kernel = 3, padding = 1, padding_mode = 'circular' }"},
      {"conv", "circular, padding as wide as allowed", "[1, 3, 4]",
       "{ type = 'conv', out = 2, kernel = [2, 3], padding = [3, 0], padding_mode = 'circular' }"},
      {"conv", "stride, dilation, asymmetric kernel", "[2, 5, 6]",
       "{ type = 'conv', out = 3, kernel = [2, 3], stride = [1, 2], padding = [1, 2], "
       "dilation = [2, 1] }"},
      {"conv", "a stride that leaves pixels over", "[1, 5, 5]",
       "{ type = 'conv', out = 2, kernel = 2, stride = 2 }"},
      {"conv", "groups", "[4, 3, 3]",
       "{ type = 'conv', out = 6, kernel = 2, groups = 2, bias = true }"},
      {"conv", "depthwise 1x1", "[3, 2, 3]",
       "{ type = 'conv', out = 3, kernel = 1, groups = 3 }, { type = 'tanh' }"},
      {"conv", "one position, no bias", "[2, 3, 3]",
       "{ type = 'conv', out = 4, kernel = 3, bias = false }, { type = 'tanh' }"},
      {"conv1d", "circular", "[2, 6]",
       "{ type = 'conv1d', out = 3, kernel = 3, padding = 1, padding_mode = 'circular' }"},
      {"conv1d", "groups, stride, dilation", "[2, 8]",
       "{ type = 'conv1d', out = 4, kernel = 2, stride = 2, padding = 1, dilation = 2, "
       "groups = 2 }, { type = 'tanh' }"},
      {"conv3d", "zero padding, stride, dilation", "[2, 3, 4, 4]",
       "{ type = 'conv3d', out = 2, kernel = [2, 3, 2], stride = [1, 2, 1], padding = [0, 1, 1], "
       "dilation = [1, 1, 2] }, { type = 'tanh' }"},
      {"conv3d", "groups, circular", "[2, 2, 3, 2]",
       "{ type = 'conv3d', out = 4, kernel = [1, 3, 2], padding = [0, 1, 2], groups = 2, "
       "padding_mode = 'circular', bias = false }"},
      {"avgpool3d", "before a convolution of volumes", "[1, 4, 4, 3]",
       "{ type = 'avgpool3d', kernel = [2, 2, 1] }, { type = 'tanh' }, { type = 'conv3d', out = 2, "
       "kernel = 2 }"},
      {"fc", "stride 2", image, "{ type = 'fc', out = 2, stride = 2 }, { type = 'tanh' }"},
      {"fc", "after a convolution", image, conv + "{ type = 'fc', out = 2, bias = false }"},
      {"factored_fc", "stride 2", image,
       "{ type = 'factored_fc', out = 3, stride = 2 }, { type = 'tanh' }"},
      {"factored_fc", "without biases, after a convolution", "[1, 4, 2]",
       conv + "{ type = 'factored_fc', out = 2, stride = 2, bias = false }"},
      {"sparse_conv", "circular, before a polyphase layer", image,
       "{ type = 'sparse_conv', out = 3, kernel = 3, padding = 1, padding_mode = 'circular', "
       "anchors = 0.8 }, { type = 'polyphase' }, { type = 'tanh' }"},
      {"sparse_conv", "anchors on the grid, no bias, another length", "[2, 3, 4]",
       "{ type = 'sparse_conv', out = 2, kernel = 2, anchors = 1, omega = 0.6, bias = false }, "
       "{ type = 'tanh' }"},
      {"sparse_fc", "stride 2", image,
       "{ type = 'sparse_fc', out = 3, stride = 2 }, { type = 'tanh' }"},
      {"sparse_fc", "one anchor, after a convolution", "[1, 2, 2]",
       conv + "{ type = 'sparse_fc', out = 2, anchors = 0.25, omega = 2, bias = false }"},
      {"group_lift", "to a convolution over all copies", "[1, 3, 3]",
       "{ type = 'group_lift' }, { type = 'conv', out = 2, kernel = 2 }, { type = 'tanh' }"},
      {"group_conv", "over copies, before a polyphase layer", image,
       "{ type = 'group_lift' }, { type = 'group_conv', out = 2, padding = 1, padding_mode = "
       "'circular' }, { type = 'polyphase' }, { type = 'tanh' }"},
      {"group_conv", "each copy by itself", "[1, 4, 3]",
       "{ type = 'group_lift' }, { type = 'group_conv', out = 2, mix = false }, { type = 'tanh' }"},
      {"group_conv", "depthwise of both kinds", "[2, 3, 3]",
       "{ type = 'group_lift' }, "
       "{ type = 'group_conv', out = 4, padding = 1, groups = 2, mix = false }, "
       "{ type = 'group_conv', out = 4, kernel = 1, groups = 4, bias = false }, "
       "{ type = 'tanh' }, { type = 'group_conv', out = 2, kernel = 1, mix = false }"},
      {"group_pool", "after a group convolution", image,
       "{ type = 'group_lift' }, { type = 'group_conv', out = 2 }, { type = 'group_pool' }, "
       "{ type = 'tanh' }"},
      {"steerable_conv", "regular fields of quarter turns", "[2, 4, 4]",
       "{ type = 'steerable_conv', group = 'C4', out = '2 regular', padding = 1, padding_mode = "
       "'circular' }, { type = 'tanh' }, { type = 'steerable_conv', out = '1 regular', stride = 2 "
       "}, "
       "{ type = 'relu' }"},
      {"steerable_conv", "several kinds in and out, before a polyphase layer", "[1, 4, 4]",
       "{ type = 'steerable_conv', group = 'O(2)', out = ['2 trivial', '1 (1,1)'], padding = 1 }, "
       "{ type = 'steerable_conv', out = ['1 (1,2)', '2 <1'], padding = 1 }, { type = 'polyphase' "
       "}"},
      {"steerable_conv", "dilation, no bias, a quotient", "[1, 6, 5]",
       "{ type = 'steerable_conv', group = 'D2', out = '2 /C2', dilation = 2, bias = false }, "
       "{ type = 'tanh' }"},
      {"steerable_conv", "every part of the kernels as a pathway", "[1, 4, 4]",
       "{ type = 'steerable_conv', group = 'C4', out = '1 regular' }, { type = 'tanh' }, { type = "
       "'sum', "
       "of = [{ type = 'steerable_conv', out = '2 trivial', padding = 1 }, { type = "
       "'steerable_conv', "
       "out = '2 trivial', padding = 1, isotypic = '(2)' }, { type = 'steerable_conv', out = '2 "
       "trivial', padding = 1, isotypic = '(1)' }] }, { type = 'tanh' }"},
      {"steerable_conv", "a learned degree, then all irreps of a band", "[1, 4, 4]",
       "{ type = 'steerable_conv', group = 'D4', out = ['1 regular', '1 /C4'], degree = 1, "
       "isotypic = '<2' }, { type = 'tanh' }, { type = 'steerable_conv', out = '2 trivial', "
       "padding = 1, isotypic = '<1' }"},
      {"steerable_conv", "degrees on the circle", "[1, 4, 4]",
       "{ type = 'steerable_conv', group = 'SO(2)', out = ['1 trivial', '1 (1)'], degree = 2, "
       "padding = 1 }, { type = 'steerable_conv', out = '2 trivial', padding = 1, degree = 1, "
       "padding_mode = 'circular' }"},
      {"steerable_conv3d", "rotations of space", "[1, 3, 3, 3]",
       "{ type = 'steerable_conv3d', group = 'SO(3)', out = ['2 trivial', '1 (1)'], padding = 1 }, "
       "{ type = 'steerable_conv3d', out = ['1 (1)', '2 trivial'], stride = 2 }"},
      {"steerable_conv3d", "a finite group, circular", "[1, 2, 3, 3]",
       "{ type = 'steerable_conv3d', group = 'T', out = '1 regular', padding = 1, padding_mode = "
       "'circular', bias = false }, { type = 'tanh' }"},
      {"batchnorm", "of fields", "[1, 4, 4]",
       "{ type = 'steerable_conv', group = 'C4', out = ['2 regular', '1 trivial', '1 /C2'] }, { "
       "type "
       "= 'batchnorm' }, { type = 'tanh' }"},
      {"norm_activation", "fields of the plane", "[1, 4, 4]",
       "{ type = 'steerable_conv', group = 'SO(2)', out = ['1 (1)', '2 trivial', '1 (2)'], padding "
       "= 1 }, { type = 'norm_activation', activation = 'softplus' }, { type = 'steerable_conv', "
       "out = '2 trivial' }"},
      {"norm_activation", "fields that are cut off, in space", "[1, 3, 3, 3]",
       "{ type = 'steerable_conv3d', group = 'O', out = ['2 T1', '1 trivial'], padding = 1 }, { "
       "type = 'norm_activation' }"},
      {"norm_activation", "without a bias", "[1, 3, 4]",
       "{ type = 'steerable_conv', group = 'D4', out = '2 (1,1)' }, { type = 'norm_activation', "
       "activation = 'sigmoid', bias = false }"},
      {"norm_activation", "squash", "[3]",
       "{ type = 'linear', out = 5 }, { type = 'norm_activation', group = 'C4', in = ['2 (1)', '1 "
       "trivial'], activation = 'squash' }"},
      {"norm_pool", "of fields of two sizes", "[1, 4, 3]",
       "{ type = 'steerable_conv', group = 'O(2)', out = ['1 trivial', '2 (1,1)'] }, { type = "
       "'norm_pool' }, { type = 'tanh' }"},
      {"tensor_product", "behind its factors", "[1, 4, 4]",
       "{ type = 'steerable_conv', group = 'C4', out = ['1 regular', '1 trivial'], padding = 1 }, "
       "{ type = 'tensor_product' }, { type = 'steerable_conv', out = ['1 (1)', '1 trivial'] }"},
      {"tensor_product", "alone, in space", "[1, 3, 3, 3]",
       "{ type = 'steerable_conv3d', group = 'SO(3)', out = ['1 (1)', '1 trivial'], padding = 1 }, "
       "{ type = 'tensor_product', keep = false }"},
      {"batchnorm", "of fields of any kind", "[1, 4, 4]",
       "{ type = 'steerable_conv', group = 'SO(2)', out = ['2 <1', '1 (2)', '1 trivial'], bias = "
       "false }, { type = 'batchnorm' }"},
      {"batchnorm", "of vectors in space, without weights", "[1, 3, 3, 3]",
       "{ type = 'steerable_conv3d', group = 'SO(3)', out = ['2 trivial', '2 (1)'], padding = 1 }, "
       "{ type = 'batchnorm', affine = false }, { type = 'gated' }"},
      {"field_dropout", "in evaluation mode", "[1, 3, 3]",
       "{ type = 'steerable_conv', group = 'C4', out = '1 regular' }, { type = 'field_dropout' }"},
      {"gated", "fields of the plane", "[1, 4, 4]",
       "{ type = 'steerable_conv', group = 'SO(2)', out = ['1 (1)', '3 trivial', '1 (2)'], padding "
       "= 1 }, { type = 'gated', activation = 'tanh' }, { type = 'steerable_conv', out = '2 "
       "trivial' "
       "}"},
      {"gated", "every channel a gate", "[2, 3, 3, 3]",
       "{ type = 'steerable_conv3d', group = 'O', out = ['1 trivial', '1 T1'] }, { type = 'gated' "
       "}"},
      {"fourier", "of rotations", "[1, 4, 4]",
       "{ type = 'steerable_conv', group = 'SO(2)', out = ['1 <2', '1 trivial'], padding = 1 }, "
       "{ type = 'fourier' }, { type = 'avgpool', kernel = 2 }"},
      {"fourier", "of reflections too, smooth", "[1, 3, 3]",
       "{ type = 'steerable_conv', group = 'O(2)', out = '1 <1', padding = 1 }, { type = "
       "'fourier', "
       "activation = 'tanh', samples = 4 }"},
      {"field_pool", "of fields of two sizes", "[1, 4, 3]",
       "{ type = 'steerable_conv', group = 'D1', out = ['2 regular', '1 trivial'] }, "
       "{ type = 'field_pool' }, { type = 'tanh' }"},
      {"blurpool", "of images", "[1, 5, 4]", conv + "{ type = 'blurpool' }, { type = 'tanh' }"},
      {"blurpool", "of volumes, a wider window at stride 1", "[1, 4, 3, 4]",
       "{ type = 'conv3d', out = 2, kernel = 1 }, { type = 'blurpool', sigma = 0.8, stride = 1, "
       "padding = 1 }, { type = 'tanh' }"},
      {"upsample", "bilinear, to unequal sides", "[1, 3, 2]",
       conv + "{ type = 'upsample', size = [5, 7] }, { type = 'tanh' }"},
      {"upsample", "nearest, by a scale", "[1, 3, 2]",
       conv + "{ type = 'upsample', scale = 1.5, mode = 'nearest' }, { type = 'tanh' }"},
      {"upsample", "trilinear", "[1, 2, 2, 3]",
       "{ type = 'conv3d', out = 2, kernel = 1 }, { type = 'upsample', size = 3 }, { type = 'tanh' "
       "}"},
      {"mask", "of images", "[1, 4, 4]",
       conv + "{ type = 'mask', margin = 30 }, { type = 'tanh' }"},
      {"conv_transpose", "stride, dilation, asymmetric kernel", "[2, 3, 2]",
       "{ type = 'conv_transpose', out = 3, kernel = [2, 3], stride = [2, 3], padding = [1, 0], "
       "output_padding = [1, 2], dilation = [3, 1] }, { type = 'tanh' }"},
      {"conv_transpose", "groups, more padding than kernel, no bias", "[4, 3, 3]",
       "{ type = 'conv_transpose', out = 6, kernel = 2, stride = 2, padding = 2, groups = 2, bias "
       "= "
       "false }, { type = 'tanh' }"},
      {"conv_transpose", "after a convolution, before a polyphase layer", image,
       conv +
           "{ type = 'conv_transpose', out = 2, kernel = 2, stride = 2 }, { type = 'polyphase' }"},
      {"conv_transpose3d", "stride 2", "[2, 2, 2, 1]",
       "{ type = 'conv_transpose3d', out = 2, kernel = [2, 3, 2], stride = 2, padding = [0, 1, 0] "
       "}, { type = 'tanh' }"},
      {"steerable_conv_transpose", "several kinds in and out", "[1, 3, 3]",
       "{ type = 'steerable_conv', group = 'O(2)', out = ['1 trivial', '1 (1,1)'], padding = 1 }, "
       "{ type = 'steerable_conv_transpose', out = ['1 (1,2)', '2 trivial'], stride = 2, padding = "
       "1 }"},
      {"steerable_conv_transpose3d", "of a finite group", "[1, 2, 2, 2]",
       "{ type = 'steerable_conv_transpose3d', group = 'D2', out = '1 regular', stride = 2, "
       "padding = 1, bias = false }, { type = 'tanh' }"},
      {"concat", "a skip, a convolution and a body without weights", "[2, 3, 3]",
       "{ type = 'concat', of = [[], { type = 'conv', out = 1, kernel = 3, padding = 1 }, [{ type "
       "= "
       "'tanh' }]] }, { type = 'tanh' }"},
      {"concat", "of vectors, in a concat", "[3]",
       "{ type = 'concat', of = [{ type = 'linear', out = 2 }, { type = 'concat', of = [{ type = "
       "'bias' }, []] }] }, { type = 'tanh' }"},
      {"concat", "a residual U-net on fields of D4", "[1, 5, 5]",
       "{ type = 'steerable_conv', group = 'D4', out = '1 regular', padding = 1 }, { type = 'tanh' "
       "}, { type = 'concat', of = [[], [{ type = 'blurpool' }, { type = 'residual', layer = [{ "
       "type = 'steerable_conv', out = '1 regular', padding = 1 }, { type = 'tanh' }] }, { type = "
       "'upsample', size = 5 }]] }, { type = 'steerable_conv', out = '1 (1,1)' }"},
      {"restrict", "a permutation of channels", "[1, 3, 3]",
       "{ type = 'steerable_conv', group = 'D2', out = ['1 regular', '1 trivial'], padding = 1 }, "
       "{ "
       "type = 'restrict', group = 'D1' }, { type = 'steerable_conv', out = '1 regular' }, { type "
       "= "
       "'tanh' }"},
      {"restrict", "a change of basis", "[1, 3, 3]",
       "{ type = 'steerable_conv', group = 'O(2)', out = ['1 (1,1)', '1 (1,2)'] }, { type = "
       "'restrict', group = 'D1@30' }"},
      {"polyphase", "stride 2", image, conv + "{ type = 'polyphase' }, { type = 'tanh' }"},
      {"polyphase", "stride 3", "[1, 3, 6]", conv + "{ type = 'polyphase', stride = 3 }"},
      {"maxpool", "overlapping, padded", "[1, 5, 4]",
       conv + "{ type = 'maxpool', kernel = [3, 2], stride = [2, 1], padding = [1, 1] }"},
      {"maxpool", "kernel 2", image, conv + "{ type = 'maxpool', kernel = 2 }"},
      {"avgpool", "padded, with pixels left over", "[1, 5, 4]",
       conv + "{ type = 'avgpool', kernel = [2, 3], stride = 2, padding = [1, 1] }"},
      {"global_avgpool", "after a convolution", image,
       conv + "{ type = 'tanh' }, { type = 'global_avgpool' }"},
      {"global_avgpool", "of a sequence", "[2, 5]",
       "{ type = 'conv1d', out = 3, kernel = 3 }, { type = 'global_avgpool' }"},
      {"flatten", "between maps", image, conv + "{ type = 'flatten' }, { type = 'tanh' }"},
      {"residual", "of convolutions", "[3, 3, 3]",
       "{ type = 'residual', layer = [" + conv + "{ type = 'tanh' }, " + conv + "] }"},
      {"residual", "whose body has no weights", image,
       conv + "{ type = 'residual', layer = [{ type = 'sigmoid' }] }"},
      {"residual", "nested, first layer of the network without weights", "[3, 2, 2]",
       "{ type = 'residual', layer = [{ type = 'tanh' }, { type = 'residual', layer = [" + conv +
           "{ type = 'silu' }] }] }"},
      {"repeat", "a recurrent map", "[4]",
       "{ type = 'linear', out = 3 }, "
       "{ type = 'repeat', times = 3, layer = [{ type = 'linear', out = 3 }, { type = 'tanh' }] }"},
      {"repeat", "of images, first layer of the network", "[2, 3, 3]",
       "{ type = 'repeat', times = 2, layer = [{ type = 'residual', layer = [{ type = 'conv', "
       "out = 2, kernel = 3, padding = 1 }, { type = 'layernorm' }, { type = 'relu' }] }] }"},
      {"repeat", "in a repeat, groups, a scalar", "[4, 2, 2]",
       "{ type = 'repeat', times = 2, layer = [{ type = 'conv', out = 4, kernel = 1, groups = 2 }, "
       "{ type = 'repeat', times = 2, layer = [{ type = 'bias' }, { type = 'tanh' }, "
       "{ type = 'scale' }] }] }"},
      {"repeat", "of pathways", "[2, 2, 2]",
       "{ type = 'repeat', times = 2, layer = [{ type = 'sum', of = [{ type = 'fc', out = 2 }, "
       "{ type = 'factored_fc', out = 2 }] }, { type = 'tanh' }] }"},
      {"sum", "fc, factored and subsampled convolution", image,
       "{ type = 'sum', of = [{ type = 'fc', out = 3, stride = 2 }, "
       "{ type = 'factored_fc', out = 3, stride = 2 }, [" +
           conv +
           "{ type = 'polyphase' }]] }, "
           "{ type = 'tanh' }"},
      {"sum", "given scale, a pathway without weights", "[3, 3, 2]",
       "{ type = 'sum', scale = 0.7, of = [{ type = 'tanh' }, " + conv + "] }"},
      {"sum", "a pathway without layers, the identity", "[3]",
       "{ type = 'linear', out = 3 }, { type = 'sum', of = [[], { type = 'tanh' }] }"},
      {"scale", "a scalar", image, conv + "{ type = 'scale' }, { type = 'tanh' }"},
      {"bias", "a scalar", image, conv + "{ type = 'bias' }, { type = 'tanh' }"},
      {"bias", "first layer", "[3]", "{ type = 'bias' }, { type = 'tanh' }, { type = 'scale' }"},
      {"batchnorm", "of images", image, conv + "{ type = 'batchnorm' }, { type = 'tanh' }"},
      {"batchnorm", "of vectors", "[4]",
       "{ type = 'linear', out = 3 }, { type = 'batchnorm', eps = 0.01 }"},
      {"batchnorm", "without weights", image, conv + "{ type = 'batchnorm', affine = false }"},
      {"layernorm", "of images", "[2, 3, 2]",
       "{ type = 'conv', out = 2, kernel = 1 }, { type = 'layernorm' }, { type = 'tanh' }"},
      {"layernorm", "of vectors", "[4]", "{ type = 'linear', out = 5 }, { type = 'layernorm' }"},
      {"groupnorm", "two groups", "[2, 3, 2]",
       "{ type = 'conv', out = 4, kernel = 1 }, { type = 'groupnorm', groups = 2 }"},
      {"groupnorm", "without weights", "[2, 3, 2]",
       "{ type = 'conv', out = 4, kernel = 1 }, { type = 'groupnorm', groups = 2, "
       "affine = false }, { type = 'tanh' }"},
      {"dropout", "in evaluation mode", "[4]",
       "{ type = 'linear', out = 5 }, { type = 'dropout' }"},
      {"relu", "", "[4]", "{ type = 'linear', out = 5 }, { type = 'relu' }"},
      {"tanh", "", "[4]", "{ type = 'linear', out = 5 }, { type = 'tanh' }"},
      {"sigmoid", "", "[4]", "{ type = 'linear', out = 5 }, { type = 'sigmoid' }"},
      {"gelu", "", "[4]", "{ type = 'linear', out = 5 }, { type = 'gelu' }"},
      {"gelu", "by tanh", "[4]",
       "{ type = 'linear', out = 5 }, { type = 'gelu', approximate = 'tanh' }"},
      {"elu", "", "[4]", "{ type = 'linear', out = 5 }, { type = 'elu' }"},
      {"elu", "alpha below 1", "[4]",
       "{ type = 'linear', out = 5 }, { type = 'elu', alpha = 0.4 }"},
      {"elu", "alpha below 0", "[4]", "{ type = 'linear', out = 5 }, { type = 'elu', alpha = -2 }"},
      {"silu", "", "[4]", "{ type = 'linear', out = 5 }, { type = 'silu' }"},
      {"softplus", "", "[4]", "{ type = 'linear', out = 5 }, { type = 'softplus' }"},
      {"softplus", "steep, linear above its threshold", "[4]",
       "{ type = 'linear', out = 5 }, { type = 'softplus', beta = 3, threshold = 1.5 }"},
      {"tanh", "over copies", "[4]", "{ type = 'linear', out = 5 }, { type = 'tanh' }", 3},
      {"polyphase", "over copies, each with a phase of its own", image,
       conv + "{ type = 'polyphase' }, { type = 'relu' }", 2},
      {"groupnorm", "over copies", "[2, 3, 2]",
       "{ type = 'conv', out = 4, kernel = 1, groups = 2 }, { type = 'groupnorm', groups = 2 }", 2},
      {"repeat", "over copies", "[3, 2]",
       "{ type = 'repeat', times = 2, layer = [{ type = 'linear', out = 2 }, { type = 'silu' }] }",
       2},
  };
  return list;
}

Tensor random_tensor(at::IntArrayRef shape, uint64_t seed) {
  return normal_draws(torch::empty(shape), Stream(seed));
}

std::shared_ptr<Network> network_of(const std::string& text, int64_t classes) {
  return build_network(toml::parse(text), "net.toml", classes);
}

void randomise(Network& network, uint64_t seed) {
  torch::NoGradGuard no_grad;
  network.to(torch::kFloat64);
  for (const auto& item : network.named_parameters())
    item.value().copy_(0.7 * normal_draws(item.value(), Stream(seed).split(item.key())));
  for (const auto& item : network.named_buffers()) {
    // What a group gives is not any number.
    if (!item.value().is_floating_point() || item.key().find("basis") != std::string::npos)
      continue;
    const auto draws = normal_draws(item.value(), Stream(seed).split(item.key()));
    item.value().copy_(item.key().find("var") == std::string::npos ? draws : draws.exp());
  }
}

std::shared_ptr<Network> LayerExample::build(uint64_t seed) const {
  auto network = network_of("input = " + input + "\nlayer = [" + layers +
                            ", { type = 'flatten' }, { type = 'linear', out = 3 }]");
  randomise(*network, seed);
  if (copies > 0) return std::make_shared<AveragedNetwork>(*network);
  return network;
}

Tensor LayerExample::inputs(int64_t n, uint64_t seed) const {
  std::vector<int64_t> shape = {n};
  if (copies > 0) shape.push_back(copies);
  const auto table = toml::parse("input = " + input);
  for (const auto& size : *table["input"].as_array()) shape.push_back(*size.value<int64_t>());
  return random_tensor(shape, seed);
}

}  // namespace evariste
