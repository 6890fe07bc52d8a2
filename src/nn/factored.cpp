#include "nn/factored.h"

#include "nn/linear_map.h"

namespace evariste {
namespace {

/// U [D, C X] seen as [C, D, X]: one group per input channel.
class InputFactorBlock : public Block {
 public:
  InputFactorBlock(Tensor weight, int64_t channels)
      : Block(std::move(weight)), channels_(channels) {}

  Tensor to_matrix(const Tensor& w) const override {
    return w.reshape({w.size(0), channels_, -1}).transpose(0, 1);
  }
  Tensor from_matrix(const Tensor& m) const override {
    return m.transpose(0, 1).reshape(weight_.sizes());
  }
  Tensor phi(const Tensor& x) const override {  // [n, C, X] -> [C, n, 1, X]
    return x.reshape({x.size(0), channels_, 1, -1}).transpose(0, 1);
  }
  Tensor to_positions(const Tensor& z) const override {  // [m, C, D] -> [C, m, 1, D]
    return z.unsqueeze(2).transpose(0, 1);
  }
  Tensor from_positions(const Tensor& z, const Tensor&) const override {
    return z.transpose(0, 1).squeeze(2);
  }
  Tensor backward_data(const Tensor& g, const Tensor& x) const override {
    auto shape = x.sizes().vec();
    shape[0] = g.size(0);
    return g.transpose(0, 1).bmm(value()).transpose(0, 1).reshape(shape);
  }

 private:
  int64_t channels_;
};

/// V [Y, D C] seen as [D, Y, C]: one group per output channel.
class OutputFactorBlock : public Block {
 public:
  OutputFactorBlock(Tensor weight, int64_t outputs) : Block(std::move(weight)), outputs_(outputs) {}

  Tensor to_matrix(const Tensor& w) const override {
    return w.reshape({w.size(0), outputs_, -1}).transpose(0, 1);
  }
  Tensor from_matrix(const Tensor& m) const override {
    return m.transpose(0, 1).reshape(weight_.sizes());
  }
  Tensor phi(const Tensor& z) const override {  // [n, C, D] -> [D, n, 1, C]
    return z.permute({2, 0, 1}).unsqueeze(2);
  }
  Tensor to_positions(const Tensor& y) const override {  // [m, D, Y] -> [D, m, 1, Y]
    return y.flatten(2).unsqueeze(2).transpose(0, 1);
  }
  Tensor from_positions(const Tensor& y, const Tensor&) const override {
    return y.transpose(0, 1).squeeze(2);
  }
  Tensor backward_data(const Tensor& g, const Tensor&) const override {  // -> [m, C, D]
    return g.flatten(2).transpose(0, 1).bmm(value()).permute({1, 2, 0});
  }

 private:
  int64_t outputs_;
};

}  // namespace

class FactoredFullyConnected::Map : public LinearMap {
 public:
  Map(std::unique_ptr<Block> weight, std::unique_ptr<Block> bias) {
    set_blocks(std::move(weight), std::move(bias));
  }
};

FactoredFullyConnected::FactoredFullyConnected(std::vector<int64_t> input,
                                               std::vector<int64_t> output, bool bias_u,
                                               bool bias_v)
    : input_(std::move(input)), output_(std::move(output)) {
  const auto c = input_[0], d = output_[0];
  const auto x = c10::multiply_integers(input_) / c, y = c10::multiply_integers(output_) / d;
  const double u_bound = std::sqrt(3.0 / static_cast<double>(x));
  const double v_bound = std::sqrt(3.0 / static_cast<double>(c));
  const auto u = register_parameter("U", torch::empty({d, c * x}).uniform_(-u_bound, u_bound));
  std::unique_ptr<Block> shift_u, shift_v;
  if (bias_u)
    shift_u = std::make_unique<BiasBlock>(register_parameter("bias_U", torch::zeros({d})),
                                          std::vector<int64_t>{d}, BiasBlock::Axis::kLast);
  const auto v = register_parameter("V", torch::empty({y, d * c}).uniform_(-v_bound, v_bound));
  if (bias_v)
    shift_v = std::make_unique<BiasBlock>(register_parameter("bias_V", torch::zeros({y})),
                                          std::vector<int64_t>{y}, BiasBlock::Axis::kLast);
  first_ = std::make_unique<Map>(std::make_unique<InputFactorBlock>(u, c), std::move(shift_u));
  second_ = std::make_unique<Map>(std::make_unique<OutputFactorBlock>(v, d), std::move(shift_v));
}

FactoredFullyConnected::~FactoredFullyConnected() = default;

void FactoredFullyConnected::set_feature_powers(double u, double v) {
  torch::NoGradGuard no_grad;
  for (const auto& [map, power] : {std::pair(first_.get(), u), std::pair(second_.get(), v)}) {
    map->weight_block().feature_power = power;
    Tensor(map->weight_block().weight()).div_(std::sqrt(power));
  }
}

Tensor FactoredFullyConnected::forward(const Tensor& x, Tape* tape) const {
  if (tape) tape->children.resize(2);
  const auto z = first_->forward(x.flatten(2), tape ? &tape->children[0] : nullptr);
  const auto y = second_->forward(z, tape ? &tape->children[1] : nullptr);
  return y.reshape({x.size(0), output_[0], output_[1], output_[2]});
}

Tensor FactoredFullyConnected::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                                        bool needs_input) const {
  const auto gz = second_->backward(g.flatten(3), tape.children[1], sink, true);
  const auto gx = first_->backward(gz, tape.children[0], sink, needs_input);
  if (!needs_input) return gx;
  // [R, n, C, X] -> [R, n, C, H, W]
  auto shape = gx.sizes().vec();
  shape.pop_back();
  shape.insert(shape.end(), input_.begin() + 1, input_.end());
  return gx.reshape(shape);
}

Tensor FactoredFullyConnected::jvp(const Tensor& dx, const Tape& tape,
                                   const Tangents& tangents) const {
  const auto dz = first_->jvp(dx.defined() ? dx.flatten(3) : dx, tape.children[0], tangents);
  const auto dy = second_->jvp(dz, tape.children[1], tangents);
  if (!dy.defined()) return dy;
  return dy.reshape({dy.size(0), dy.size(1), output_[0], output_[1], output_[2]});
}

void FactoredFullyConnected::visit_blocks(const std::function<void(Block&)>& visit) {
  first_->visit_blocks(visit);
  second_->visit_blocks(visit);
}

}  // namespace evariste
