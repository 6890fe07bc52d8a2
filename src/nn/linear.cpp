#include "nn/linear.h"

#include "core/error.h"

namespace evariste {
namespace {

/// Linear on the last dimension, positions in between.
class LastDimensionBlock : public Block {
 public:
  using Block::Block;

  Tensor phi(const Tensor& x) const override {
    return x.reshape({1, x.size(0), -1, weight_.size(1)});
  }
  Tensor to_positions(const Tensor& y) const override {
    return y.reshape({1, y.size(0), -1, weight_.size(0)});
  }
  Tensor from_positions(const Tensor& y, const Tensor& x) const override {
    auto shape = x.sizes().vec();
    shape.front() = y.size(1);
    shape.back() = weight_.size(0);
    return y.reshape(shape);
  }
  Tensor apply(const Tensor& matrix, const Tensor& x) const override {
    return x.matmul(matrix[0].t());
  }
  Tensor backward_data(const Tensor& g, const Tensor&) const override { return g.matmul(weight_); }
  Tensor gradient(const Tensor& x, const Tensor& g) const override {
    return g.reshape({-1, weight_.size(0)}).t().mm(x.reshape({-1, weight_.size(1)})).unsqueeze(0);
  }
};

}  // namespace

DenseBlock::DenseBlock(Tensor weight, std::vector<int64_t> output)
    : Block(std::move(weight)), output_(std::move(output)) {}

Tensor DenseBlock::phi(const Tensor& x) const { return x.reshape({1, x.size(0), 1, -1}); }

Tensor DenseBlock::to_positions(const Tensor& y) const { return y.reshape({1, y.size(0), 1, -1}); }

Tensor DenseBlock::from_positions(const Tensor& y, const Tensor&) const {
  auto shape = output_;
  shape.insert(shape.begin(), y.size(1));
  return y.reshape(shape);
}

Tensor DenseBlock::apply(const Tensor& matrix, const Tensor& x) const {
  auto shape = output_;
  shape.insert(shape.begin(), x.size(0));
  if (!basis_a_.defined()) return x.flatten(1).mm(matrix[0].t()).view(shape);
  return input_(x, basis_a_).mm(matrix[0].t()).mm(basis_b_.t()).view(shape);
}

Tensor DenseBlock::backward_data(const Tensor& g, const Tensor& x) const {
  auto shape = x.sizes().vec();
  shape[0] = g.size(0);
  if (!basis_a_.defined()) return g.flatten(1).mm(weight_).view(shape);
  return cotangent_(g, basis_b_).mm(weight_).mm(basis_a_.t()).view(shape);
}

Tensor DenseBlock::gradient(const Tensor& x, const Tensor& g) const {
  if (!basis_a_.defined()) return g.flatten(1).t().mm(x.flatten(1)).unsqueeze(0);
  return cotangent_(g, basis_b_).t().mm(input_(x, basis_a_)).unsqueeze(0);
}

bool DenseBlock::set_bases(const Tensor& basis_b, const Tensor& basis_a) {
  basis_b_ = basis_b;
  basis_a_ = basis_a;
  input_ = cotangent_ = Product();
  return true;
}

const Tensor& DenseBlock::Product::operator()(const Tensor& x, const Tensor& basis) {
  // `of` keeps the memory alive, so equal addresses are the same numbers unless written since.
  const bool known = of.defined() && x.data_ptr() == of.data_ptr() && x.sizes() == of.sizes() &&
                     x.strides() == of.strides() && x._version() == version;
  if (!known) {
    of = x;
    version = static_cast<uint32_t>(x._version());
    result = x.flatten(1).mm(basis);
  }
  return result;
}

Linear::Linear(int64_t inputs, int64_t outputs, bool bias) {
  const double bound = 1 / std::sqrt(static_cast<double>(inputs));
  const auto w =
      register_parameter("weight", torch::empty({outputs, inputs}).uniform_(-bound, bound));
  std::unique_ptr<Block> b;
  if (bias)
    b = std::make_unique<BiasBlock>(
        register_parameter("bias", torch::empty({outputs}).uniform_(-bound, bound)),
        std::vector<int64_t>{outputs}, BiasBlock::Axis::kLast);
  set_blocks(std::make_unique<LastDimensionBlock>(w), std::move(b));
}

FullyConnected::FullyConnected(std::vector<int64_t> input, std::vector<int64_t> output, bool bias) {
  const auto inputs = c10::multiply_integers(input), outputs = c10::multiply_integers(output);
  const double bound = 1 / std::sqrt(static_cast<double>(inputs));
  const auto w =
      register_parameter("weight", torch::empty({outputs, inputs}).uniform_(-bound, bound));
  std::unique_ptr<Block> b;
  if (bias) {
    auto broadcast = output;
    broadcast.insert(broadcast.begin(), 1);
    b = std::make_unique<BiasBlock>(register_parameter("bias", torch::zeros({outputs})), broadcast,
                                    BiasBlock::Axis::kFirst);
  }
  set_blocks(std::make_unique<DenseBlock>(w, std::move(output)), std::move(b));
}

}  // namespace evariste
