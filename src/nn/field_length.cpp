#include "nn/field_length.h"

#include "core/error.h"

namespace evariste {
namespace {

constexpr double kShortest = 1e-10;  // a field is 0 below it

/// The channels of a range, which lie in `dimension`: [.., fields, size, ...].
Tensor by_field(const Tensor& x, const FieldRange& range, int64_t dimension) {
  return x.narrow(dimension, range.first, range.channels())
      .unflatten(dimension, {range.fields, range.size});
}

Tensor joined(const std::vector<Tensor>& parts, int64_t dimension) {
  return parts.size() == 1 ? parts[0] : torch::cat(parts, dimension);
}

/// x/(1 + |x|)
class Squash : public Layer {
 public:
  Tensor forward(const Tensor& x, Tape* tape) const override {
    const auto inverse = 1 / (1 + x.abs());
    if (tape) tape->aux = inverse;
    return x * inverse;
  }
  Tensor backward(const Tensor& g, const Tape& tape, const Sink&, bool) const override {
    return g * tape.aux.square();
  }
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents&) const override {
    return dx.defined() ? dx * tape.aux.square() : dx;
  }
  bool bends() const override { return true; }
};

/// One number for every field, of tensors [n, fields, ...].
class LengthBias : public BiasBlock {
 public:
  explicit LengthBias(const Tensor& vector)
      : BiasBlock(vector, {1, vector.numel()}, Axis::kFirst) {}
  Tensor apply(const Tensor& matrix, const Tensor& x) const override {
    std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
    shape[1] = matrix.numel();
    return matrix.reshape(shape);
  }
};

const Sink::OnBlock kNoBlocks = [](const Block&, const Tensor&, const Tensor&) {};

}  // namespace

FieldLength::FieldLength(const FieldType& fields) {
  int64_t first = 0;
  for (const auto& kind : fields.kinds) {
    ranges_.push_back({first, kind.count, kind.representation.size()});
    first += kind.channels();
  }
}

Tensor FieldLength::forward(const Tensor& x, Tape* tape) const {
  std::vector<Tensor> squares;
  for (const auto& range : ranges_) squares.push_back(by_field(x, range, 1).square().sum(2));
  const auto square = joined(squares, 1);
  const auto is_short = square <= kShortest * kShortest;
  const auto length = square.masked_fill(is_short, 1).sqrt();  // without a NaN in its derivative
  if (tape) {
    tape->x = x;
    tape->aux = length.reciprocal().masked_fill(is_short, 0);
  }
  return length.masked_fill(is_short, 0);
}

Tensor FieldLength::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                             bool needs_input) const {
  if (sink.bend) sink.bend(*this, tape, g);
  if (!needs_input) return Tensor();
  auto shape = tape.x.sizes().vec();
  shape.insert(shape.begin(), g.size(0));
  auto dx = torch::zeros(shape, g.options());
  const auto scaled = g * tape.aux;
  int64_t at = 0;
  for (const auto& range : ranges_) {
    const auto own = scaled.narrow(2, at, range.fields).unsqueeze(3);
    dx.narrow(2, range.first, range.channels())
        .copy_((own * by_field(tape.x, range, 1)).flatten(2, 3));
    at += range.fields;
  }
  return dx;
}

Tensor FieldLength::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  if (!dx.defined()) return dx;
  if (tangents.bend) tangents.bend(*this, tape, dx);
  std::vector<Tensor> parts;
  for (const auto& range : ranges_)
    parts.push_back((by_field(dx, range, 2) * by_field(tape.x, range, 1)).sum(3));
  return joined(parts, 2) * tape.aux;
}

/// y_f = h(u_f) x_f/|x_f| and h of what does not transform, as a function of x [n, C, ...] and u
/// [n, fields that transform, ...]. As a layer, of both one behind the other: what bends.
class NormActivation::Gain : public Layer {
 public:
  Gain(const FieldType& fields, std::shared_ptr<Layer> h)
      : h_(std::move(h)), channels_(fields.channels()) {
    int64_t first = 0;
    for (const auto& kind : fields.kinds) {
      const FieldRange range{first, kind.count, kind.representation.size()};
      ranges_.emplace_back(range, kind.is_trivial());
      if (!kind.is_trivial()) transforming_.push_back(range);
      first += kind.channels();
    }
  }
  const std::vector<FieldRange>& transforming() const { return transforming_; }

  /// inverse [n, fields, ...]: 1/|x|. The tape keeps x, h(u)/|x|, and as children those of h(u) and
  /// of h of the numbers, and one with 1/|x|.
  Tensor value(const Tensor& x, const Tensor& u, const Tensor& inverse, Tape& tape) const {
    tape.x = x;
    tape.children.resize(3);
    tape.children[2].aux = inverse;
    if (!transforming_.empty()) tape.aux = h_->forward(u, &tape.children[0]) * inverse;
    const auto numbers = h_of_numbers(x, tape);
    return assembled(1, numbers, [&](const FieldRange& range, int64_t at) {
      return by_field(x, range, 1) * tape.aux.narrow(1, at, range.fields).unsqueeze(2);
    });
  }

  /// g [R, n, C, ...] -> at x and at u.
  std::pair<Tensor, Tensor> transposed(const Tensor& g, const Tape& tape, bool needs_x) const {
    const auto& inverse = tape.children[2].aux;
    Tensor along, at_u;  // g x/|x|
    if (!transforming_.empty()) {
      std::vector<Tensor> parts;
      for (const auto& range : transforming_)
        parts.push_back((by_field(g, range, 2) * by_field(tape.x, range, 1)).sum(3));
      along = joined(parts, 2) * inverse;
      at_u = h_->backward(along, tape.children[0], kNoBlocks, true);
    }
    if (!needs_x) return {Tensor(), at_u};
    Tensor numbers;
    if (has_numbers()) numbers = h_->backward(numbers_of(g, 2), tape.children[1], kNoBlocks, true);
    const auto fall = along.defined() ? along * tape.aux * inverse : along;
    return {assembled(2, numbers,
                      [&](const FieldRange& range, int64_t at) {
                        const auto one = [&](const Tensor& t, int64_t dimension) {
                          return t.narrow(dimension, at, range.fields).unsqueeze(dimension + 1);
                        };
                        return by_field(g, range, 2) * one(tape.aux, 1) -
                               by_field(tape.x, range, 1) * one(fall, 2);
                      }),
            at_u};
  }

  /// dx [R, n, C, ...], du [R, n, fields, ...] -> [R, n, C, ...]
  Tensor derivative(const Tensor& dx, const Tensor& du, const Tape& tape) const {
    const auto& inverse = tape.children[2].aux;
    Tensor slope;  // of h(u)/|x|
    if (!transforming_.empty()) {
      std::vector<Tensor> parts;
      for (const auto& range : transforming_)
        parts.push_back((by_field(dx, range, 2) * by_field(tape.x, range, 1)).sum(3));
      const auto longer = joined(parts, 2) * inverse;
      slope = (h_->jvp(du, tape.children[0], Tangents()) - tape.aux * longer) * inverse;
    }
    Tensor numbers;
    if (has_numbers()) numbers = h_->jvp(numbers_of(dx, 2), tape.children[1], Tangents());
    return assembled(2, numbers, [&](const FieldRange& range, int64_t at) {
      return by_field(dx, range, 2) * tape.aux.narrow(1, at, range.fields).unsqueeze(2) +
             by_field(tape.x, range, 1) * slope.narrow(2, at, range.fields).unsqueeze(3);
    });
  }

  Tensor forward(const Tensor& both, Tape* tape) const override {
    Tape own, lengths;
    const auto x = both.narrow(1, 0, channels_);
    FieldLength(transforming_).forward(x, &lengths);
    return value(x, u_of(both, 1), lengths.aux, tape ? *tape : own);
  }
  Tensor backward(const Tensor& g, const Tape& tape, const Sink&, bool) const override {
    const auto [at_x, at_u] = transposed(g, tape, true);
    return torch::cat({at_x, at_u}, 2);
  }
  Tensor jvp(const Tensor& both, const Tape& tape, const Tangents&) const override {
    return derivative(both.narrow(2, 0, channels_), u_of(both, 2), tape);
  }
  bool bends() const override { return true; }

 private:
  bool has_numbers() const { return transforming_.size() < ranges_.size(); }
  Tensor u_of(const Tensor& both, int64_t dimension) const {
    return both.narrow(dimension, channels_, both.size(dimension) - channels_);
  }
  Tensor numbers_of(const Tensor& x, int64_t dimension) const {
    std::vector<Tensor> parts;
    for (const auto& [range, is_trivial] : ranges_)
      if (is_trivial) parts.push_back(x.narrow(dimension, range.first, range.channels()));
    return joined(parts, dimension);
  }
  Tensor h_of_numbers(const Tensor& x, Tape& tape) const {
    return has_numbers() ? h_->forward(numbers_of(x, 1), &tape.children[1]) : Tensor();
  }

  /// Channels in their order: `numbers` where they do not transform, elsewhere of_fields(range,
  /// place of its first field), [.., fields, size, ...].
  template <class OfFields>
  Tensor assembled(int64_t dimension, const Tensor& numbers, const OfFields& of_fields) const {
    std::vector<Tensor> parts;
    int64_t number = 0, field = 0;
    for (const auto& [range, is_trivial] : ranges_) {
      if (is_trivial) {
        parts.push_back(numbers.narrow(dimension, number, range.fields));
        number += range.fields;
      } else {
        parts.push_back(of_fields(range, field).flatten(dimension, dimension + 1));
        field += range.fields;
      }
    }
    return joined(parts, dimension);
  }

  std::shared_ptr<Layer> h_;
  int64_t channels_;
  std::vector<std::pair<FieldRange, bool>> ranges_;  // does not transform
  std::vector<FieldRange> transforming_;
};

std::vector<std::string> NormActivation::kinds() {
  return {"relu", "sigmoid", "softplus", "squash"};
}

NormActivation::NormActivation(const FieldType& fields, std::string_view kind, bool bias) {
  const bool squashes = kind == "squash";
  if (squashes && bias) throw UsageError("bias: squash has none, found true");
  if (kind == "relu" && !bias && !fields.is_trivial())
    throw UsageError("bias: relu leaves every length as it is without one, found false");
  std::shared_ptr<Layer> h;
  if (squashes)
    h = std::make_shared<Squash>();
  else
    h = std::make_shared<Activation>(kind);
  gain_ = std::make_unique<Gain>(fields, h);
  lengths_ = std::make_unique<FieldLength>(gain_->transforming());
  int64_t count = 0;
  for (const auto& range : gain_->transforming()) count += range.fields;
  if (bias && count > 0)
    bias_ = std::make_unique<LengthBias>(register_parameter("bias", torch::zeros({count})));
}

NormActivation::~NormActivation() = default;

Tensor NormActivation::forward(const Tensor& x, Tape* tape) const {
  Tape own;
  auto& kept = tape ? *tape : own;
  kept.x = x;
  kept.children.resize(2);
  auto& lengths = kept.children[0];
  Tensor u;
  if (!gain_->transforming().empty()) {
    kept.aux = lengths_->forward(x, &lengths);
    u = bias_ ? kept.aux + bias_->apply(bias_->value(), kept.aux) : kept.aux;
  }
  return gain_->value(x, u, lengths.aux, kept.children[1]);
}

Tensor NormActivation::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                                bool needs_input) const {
  if (sink.bend) sink.bend(*gain_, tape.children[1], g);
  const auto [at_x, at_u] = gain_->transposed(g, tape.children[1], needs_input);
  if (bias_) sink(*bias_, tape.aux, at_u);
  if (!at_u.defined()) return at_x;
  // Also where no cotangent is wanted below: the lengths may bend.
  const auto by_length = lengths_->backward(at_u, tape.children[0], sink, needs_input);
  return needs_input ? at_x + by_length : Tensor();
}

Tensor NormActivation::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  const auto db = bias_ ? tangents(*bias_, tape.aux) : Tensor();
  if (!dx.defined() && !db.defined()) return Tensor();
  auto moved = dx;
  if (!dx.defined()) {
    auto shape = tape.x.sizes().vec();
    shape.insert(shape.begin(), db.size(0));
    moved = torch::zeros(shape, tape.x.options());
  }
  Tensor du;
  if (!gain_->transforming().empty()) {
    du = lengths_->jvp(moved, tape.children[0], tangents);
    if (db.defined()) du = add_tangent(du, db);
  }
  if (tangents.bend) {
    const auto both = du.defined() ? torch::cat({moved, du}, 2) : moved;
    tangents.bend(*gain_, tape.children[1], both);
  }
  return gain_->derivative(moved, du, tape.children[1]);
}

void NormActivation::visit_blocks(const std::function<void(Block&)>& visit) {
  if (bias_) visit(*bias_);
}

}  // namespace evariste
