#include "nn/field_norm.h"

#include "core/error.h"
#include "nn/field_basis.h"
#include "nn/field_bias.h"

namespace evariste {

RepresentationNorm::RepresentationNorm(int64_t fields, const Representation& rho, double epsilon,
                                       bool affine, double momentum)
    : fields_(fields), size_(rho.size()), epsilon_(epsilon), momentum_(momentum) {
  const auto trivial = trivial_columns(rho);
  invariants_ = trivial.cols();
  if (invariants_ > 0) basis_ = register_buffer("basis", as_tensor(trivial));
  if (affine) {
    // Without the bias as the weight's own: the two are of different outputs.
    weight_ = std::make_unique<ScaleBlock>(register_parameter("weight", torch::ones({fields})),
                                           std::vector<int64_t>{1, fields, 1, 1});
    if (invariants_ > 0)
      bias_ = std::make_unique<FieldBias>(
          register_parameter("bias", torch::zeros({fields * invariants_})), fields, basis_,
          std::vector<int64_t>{1, fields, size_, 1});
  }
  if (invariants_ > 0)
    running_mean_ = register_buffer("running_mean", torch::zeros({fields, invariants_}));
  running_var_ = register_buffer("running_var", torch::ones({fields}));
  batches_ = register_buffer("num_batches_tracked", torch::zeros({}, torch::kLong));
}

Tensor RepresentationNorm::normalise(const Tensor& x, Tensor* inverse_std) const {
  Tensor basis;
  if (invariants_ > 0) basis = basis_.to(x.options().requires_grad(false));
  const auto centred = [&](const Tensor& mean) {  // [fields, q]
    return mean.defined() ? x - mean.matmul(basis.t()).unsqueeze(2) : x;
  };
  auto mean = running_mean_, variance = running_var_;
  Tensor apart;
  if (is_training()) {
    if (invariants_ > 0) mean = x.mean(at::IntArrayRef{0, 3}).matmul(basis);
    apart = centred(mean);
    variance = apart.square().mean(at::IntArrayRef{0, 2, 3});
    torch::NoGradGuard no_grad;
    const auto count = static_cast<double>(x.numel() / fields_);  // less what the mean has taken
    const auto unbiased = count / std::max(1.0, count - static_cast<double>(invariants_));
    if (invariants_ > 0) running_mean_.mul_(1 - momentum_).add_(mean, momentum_);
    running_var_.mul_(1 - momentum_).add_(variance, momentum_ * unbiased);
    batches_.add_(1);
  } else {
    apart = centred(mean);
  }
  *inverse_std = (variance + epsilon_).rsqrt().view({1, fields_, 1, 1});
  return apart * *inverse_std;
}

Tensor RepresentationNorm::forward(const Tensor& x, Tape* tape) const {
  if (tape && is_training())
    throw UsageError("batchnorm in training mode couples the samples of a batch: call eval()");
  Tensor inverse;
  auto y = normalise(x, &inverse);
  if (tape) {
    tape->x = y;
    tape->aux = inverse;
  }
  if (weight_) y = weight_->apply(weight_->value(), y);
  return bias_ ? y + bias_->apply(bias_->value(), y) : y;
}

Tensor RepresentationNorm::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                                    bool needs_input) const {
  if (weight_) sink(*weight_, tape.x, g);
  if (bias_) sink(*bias_, tape.x, g);
  if (!needs_input) return Tensor();
  return (weight_ ? weight_->backward_data(g, tape.x) : g) * tape.aux;
}

Tensor RepresentationNorm::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  Tensor dy;
  const auto add = [&](const Tensor& term) { dy = dy.defined() ? dy + term : term; };
  if (dx.defined()) add(weight_ ? weight_->apply(weight_->value(), dx * tape.aux) : dx * tape.aux);
  if (weight_)
    if (const auto dw = tangents(*weight_, tape.x); dw.defined()) add(dw);
  if (bias_)
    if (const auto db = tangents(*bias_, tape.x); db.defined())
      dy = add_tangent(dy.defined() ? dy : torch::zeros_like(tape.x).unsqueeze(0), db);
  return dy;
}

void RepresentationNorm::visit_blocks(const std::function<void(Block&)>& visit) {
  if (weight_) visit(*weight_);
  if (bias_) visit(*bias_);
}

namespace {

/// T is one column of equal entries, so that the mean is that over the channels: permutations by
/// which every channel comes to the place of every other.
bool is_mean_of_channels(const Representation& rho) {
  const auto columns = trivial_columns(rho);
  return columns.cols() == 1 && (columns.array() - columns(0, 0)).abs().maxCoeff() < 1e-9;
}

}  // namespace

FieldNorm::FieldNorm(const FieldType& fields, const std::vector<int64_t>& shape, double epsilon,
                     bool affine, double momentum) {
  const auto pixels = c10::multiply_integers(shape.begin() + 1, shape.end());
  int64_t first = 0;
  for (const auto& kind : fields.kinds) {
    const int64_t size = kind.representation.size();
    Kind part{first, kind.channels(), {}, {}};
    if (is_mean_of_channels(kind.representation)) {
      part.own = {kind.count, -1};
      part.norm = std::make_shared<Norm>(Norm::Kind::kBatch,
                                         std::vector<int64_t>{kind.count, size * pixels}, 1,
                                         epsilon, affine, momentum);
    } else {
      part.own = {kind.count, size, -1};
      part.norm = std::make_shared<RepresentationNorm>(kind.count, kind.representation, epsilon,
                                                       affine, momentum);
    }
    register_module(std::to_string(kinds_.size()), part.norm);
    kinds_.push_back(std::move(part));
    first += kind.channels();
  }
}

Tensor FieldNorm::apart(const Tensor& x, const Kind& kind, int64_t dimension) {
  auto shape = x.sizes().vec();
  shape.resize(static_cast<size_t>(dimension));
  shape.insert(shape.end(), kind.own.begin(), kind.own.end());
  return x.narrow(dimension, kind.first, kind.channels).reshape(shape);
}

namespace {

/// [.., fields, rest] -> [.., channels, pixels...] as x has them behind the dimension.
Tensor together(const Tensor& y, int64_t channels, int64_t dimension, const Tensor& x,
                int64_t dimension_of_x) {
  auto shape = y.sizes().vec();
  shape.resize(static_cast<size_t>(dimension));
  shape.push_back(channels);
  for (int64_t axis = dimension_of_x + 1; axis < x.dim(); ++axis) shape.push_back(x.size(axis));
  return y.reshape(shape);
}

}  // namespace

Tensor FieldNorm::forward(const Tensor& x, Tape* tape) const {
  if (tape) {
    tape->x = x;
    tape->children.resize(kinds_.size());
  }
  std::vector<Tensor> parts;
  for (size_t k = 0; k < kinds_.size(); ++k) {
    const auto y =
        kinds_[k].norm->forward(apart(x, kinds_[k], 1), tape ? &tape->children[k] : nullptr);
    parts.push_back(together(y, kinds_[k].channels, 1, x, 1));
  }
  const auto y = parts.size() == 1 ? parts[0] : torch::cat(parts, 1);
  return x.dim() == 4 ? y.contiguous(x.suggest_memory_format()) : y;
}

Tensor FieldNorm::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                           bool needs_input) const {
  std::vector<Tensor> parts;
  for (size_t k = 0; k < kinds_.size(); ++k) {
    const auto dx =
        kinds_[k].norm->backward(apart(g, kinds_[k], 2), tape.children[k], sink, needs_input);
    if (needs_input) parts.push_back(together(dx, kinds_[k].channels, 2, g, 2));
  }
  return needs_input ? torch::cat(parts, 2) : Tensor();
}

Tensor FieldNorm::jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const {
  std::vector<Tensor> parts;
  int64_t folds = 0;
  for (size_t k = 0; k < kinds_.size(); ++k) {
    auto dy = kinds_[k].norm->jvp(dx.defined() ? apart(dx, kinds_[k], 2) : dx, tape.children[k],
                                  tangents);
    if (dy.defined()) {
      folds = dy.size(0);
      dy = together(dy, kinds_[k].channels, 2, tape.x, 1);
    }
    parts.push_back(dy);
  }
  if (folds == 0) return Tensor();
  for (size_t k = 0; k < kinds_.size(); ++k) {
    if (parts[k].defined()) continue;
    auto shape = tape.x.sizes().vec();
    shape[1] = kinds_[k].channels;
    shape.insert(shape.begin(), folds);
    parts[k] = torch::zeros(shape, tape.x.options());
  }
  return torch::cat(parts, 2);
}

void FieldNorm::visit_blocks(const std::function<void(Block&)>& visit) {
  for (const auto& kind : kinds_) kind.norm->visit_blocks(visit);
}

}  // namespace evariste
