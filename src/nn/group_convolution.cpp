#include "nn/group_convolution.h"

#include "nn/expanded_convolution.h"

namespace evariste {
namespace {

constexpr int64_t kCopies = 4;

/// [m, a b, ...] with the channels of a first -> with those of b first.
Tensor swapped(const Tensor& x, int64_t a) {
  return x.unflatten(1, {a, -1}).transpose(1, 2).flatten(1, 2);
}

/// psi [D, C/g, R, kh, kw], R = 4, or 1 where copies are not mixed. Part k of the kernel makes copy
/// k: psi turned k times; entry j of its copies, which is for copy j of the input, is psi_{j-k}.
///
/// The whole convolution is dense (g = 1, R = 4), has a group for each copy (R = 1), or, with the
/// four copies of a channel side by side, a group for each of psi's (g > 1, R = 4).
class GroupConvBlock : public ExpandedConvBlock {
 public:
  GroupConvBlock(const Tensor& psi, ConvGeometry channels)
      : ExpandedConvBlock(psi, whole(channels, psi.size(2) > 1)),
        groups_(channels.groups),
        shape_(psi.sizes().vec()) {}

  Tensor to_matrix(const Tensor& weight) const override {
    return weight.reshape({groups_, shape_[0] / groups_, -1});
  }
  Tensor from_matrix(const Tensor& matrix) const override { return matrix.reshape(shape_); }
  Tensor to_positions(const Tensor& y) const override {  // [m, 4 D, H, W] -> [g, m, 4 H W, D/g]
    return y.reshape({y.size(0), kCopies, groups_, shape_[0] / groups_, -1})
        .permute({2, 0, 1, 4, 3})
        .flatten(2, 3);
  }
  Tensor from_positions(const Tensor& y, const Tensor& x) const override {
    const auto [h, w] = geometry_.output_size(x.size(2), x.size(3));
    return y.unflatten(2, {kCopies, -1})
        .permute({1, 2, 0, 4, 3})
        .reshape({y.size(1), kCopies * shape_[0], h, w});
  }

 protected:
  std::vector<int64_t> kernel_sizes() const override {
    return {kCopies * shape_[0], shape_[1] * shape_[2], shape_[3], shape_[4]};
  }

  Tensor kernel(const Tensor& matrix) const override {
    const auto psi = matrix.reshape(shape_);
    std::vector<Tensor> parts;
    for (int64_t k = 0; k < kCopies; ++k) parts.push_back(psi.roll(k, 2).rot90(k, {3, 4}));
    auto all = torch::stack(parts);  // [k, D, C/g, j, kh, kw]
    if (is_dense()) all = all.transpose(2, 3);
    if (has_copies_together()) all = all.transpose(0, 1);
    return all.reshape(kernel_sizes());
  }

  Tensor pull_back(const Tensor& kernel) const override {
    const auto [d, c, r] = std::tuple(shape_[0], shape_[1], shape_[2]);
    const auto [kh, kw] = geometry_.kernel;
    auto all = is_dense()              ? kernel.view({kCopies, d, r, c, kh, kw}).transpose(2, 3)
               : has_copies_together() ? kernel.view({d, kCopies, c, r, kh, kw}).transpose(0, 1)
                                       : kernel.view({kCopies, d, c, r, kh, kw});
    auto sum = all[0];
    for (int64_t k = 1; k < kCopies; ++k) sum = sum + all[k].rot90(-k, {3, 4}).roll(-k, 2);
    return to_matrix(sum);
  }

  Tensor features(const Tensor& patches) const override {
    std::vector<Tensor> parts;
    for (int64_t k = 0; k < kCopies; ++k) parts.push_back(turned_back(of_copy(patches, k), k));
    return torch::stack(parts, 2).flatten(2, 3);  // [g, n, 4 T, J]
  }

  Tensor feature_gram(const Tensor& gram) const override {
    Tensor sum;
    for (int64_t k = 0; k < kCopies; ++k) {
      const auto half = turned_back(of_copy(gram, k), k);
      const auto part = turned_back(half.transpose(1, 2), k);
      sum = sum.defined() ? sum + part : part;
    }
    return sum;
  }

  Tensor enter(const Tensor& x) const override {
    return has_copies_together() ? swapped(x, kCopies) : x;
  }
  Tensor leave(const Tensor& y) const override {
    return has_copies_together() ? swapped(y, y.size(1) / kCopies) : y;
  }

 private:
  static ConvGeometry whole(ConvGeometry channels, bool mix) {
    if (!mix) channels.groups *= kCopies;
    return channels;
  }
  bool is_dense() const { return groups_ == 1 && shape_[2] > 1; }
  bool has_copies_together() const { return groups_ > 1 && shape_[2] > 1; }

  /// Of the groups of the whole convolution those that see copy k alone, or all.
  Tensor of_copy(const Tensor& all, int64_t k) const {
    return shape_[2] > 1 ? all : all.unflatten(0, {kCopies, -1})[k];
  }
  /// The last dimension, patches of the whole convolution as copy k sees them, in psi's order.
  Tensor turned_back(const Tensor& rows, int64_t k) const {
    const auto [kh, kw] = geometry_.kernel;
    const auto each = is_dense()
                          ? rows.unflatten(-1, {shape_[2], shape_[1], kh, kw}).transpose(-4, -3)
                          : rows.unflatten(-1, {shape_[1], shape_[2], kh, kw});
    return each.roll(-k, -3).rot90(-k, {-2, -1}).flatten(-4);
  }

  int64_t groups_;
  std::vector<int64_t> shape_;  // of psi
};

/// One number for a channel of all four copies.
class GroupBiasBlock : public BiasBlock {
 public:
  explicit GroupBiasBlock(const Tensor& vector)
      : BiasBlock(vector, {1, kCopies * vector.size(0), 1, 1}, Axis::kFirst) {}

  Tensor to_positions(const Tensor& y) const override {  // [m, 4 D, H, W] -> [1, m, 4 H W, D]
    return y.reshape({y.size(0), kCopies, weight_.size(0), -1})
        .transpose(2, 3)
        .flatten(1, 2)
        .unsqueeze(0);
  }
  Tensor from_positions(const Tensor& y, const Tensor& x) const override {
    if (y.size(2) == 1) return BiasBlock::from_positions(y, x);  // one for all
    return y[0].unflatten(1, {kCopies, -1}).transpose(2, 3).flatten(1);
  }
  Tensor apply(const Tensor& matrix, const Tensor& x) const override {
    return BiasBlock::apply(matrix.repeat({1, kCopies, 1}), x);
  }
};

}  // namespace

GroupConv2d::GroupConv2d(int64_t inputs, int64_t outputs, const Options& options) {
  ConvGeometry channels;
  channels.kernel = {options.kernel, options.kernel};
  channels.padding = {options.padding, options.padding};
  channels.circular = options.circular;
  channels.groups = options.groups;
  const auto copies = options.mix ? kCopies : 1;
  const auto fan_in = inputs / options.groups * copies * options.kernel * options.kernel;
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  const auto w = register_parameter("weight", torch::empty({outputs, inputs / options.groups,
                                                            copies, options.kernel, options.kernel})
                                                  .uniform_(-bound, bound));
  std::unique_ptr<Block> b;
  if (options.bias)
    b = std::make_unique<GroupBiasBlock>(
        register_parameter("bias", torch::empty({outputs}).uniform_(-bound, bound)));
  set_blocks(std::make_unique<GroupConvBlock>(w, channels), std::move(b));
}

Tensor GroupLift::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->x = x;
  return x.repeat({1, kCopies, 1, 1});
}

Tensor GroupLift::jvp(const Tensor& dx, const Tape&, const Tangents&) const {
  return dx.defined() ? dx.repeat({1, 1, kCopies, 1, 1}) : dx;
}

Tensor GroupLift::transpose(const Tensor& g, const Tape&) const {
  return g.unflatten(1, {kCopies, -1}).sum(1);
}

Tensor GroupPool::forward(const Tensor& x, Tape* tape) const {
  const auto [y, winner] = x.unflatten(1, {kCopies, -1}).max(1);
  if (tape) {
    tape->x = x;
    tape->aux = winner;
  }
  return y;
}

Tensor GroupPool::jvp(const Tensor& dx, const Tape& tape, const Tangents&) const {
  if (!dx.defined()) return dx;
  const auto winner = tape.aux.unsqueeze(0).unsqueeze(2);
  auto shape = winner.sizes().vec();
  shape[0] = dx.size(0);
  return dx.unflatten(2, {kCopies, -1}).gather(2, winner.expand(shape)).squeeze(2);
}

Tensor GroupPool::transpose(const Tensor& g, const Tape& tape) const {
  const auto folds = g.size(0) / tape.x.size(0);
  auto shape = g.sizes().vec();
  shape.insert(shape.begin() + 1, kCopies);
  return torch::zeros(shape, g.options())
      .scatter_(1, tape.aux.repeat({folds, 1, 1, 1}).unsqueeze(1), g.unsqueeze(1))
      .flatten(1, 2);
}

}  // namespace evariste
