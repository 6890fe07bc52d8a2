#include "nn/steerable_convolution.h"

#include <charconv>
#include <map>

#include "core/error.h"
#include "groups/kernel_basis.h"
#include "nn/field_basis.h"
#include "nn/field_bias.h"

namespace evariste {
namespace {

/// Basis kernels from fields of one kind.
struct Source {
  int64_t fields, first, channels;  // channels of one field
  Tensor basis;                     // buffer [N, d_b, d_a, kernel...]
  std::vector<int64_t> copies;      // with a degree: of each irrep, [copies, d] rows of the basis
};

/// A basis in the type and on the device of the weights, converted once.
class Converted {
 public:
  explicit Converted(Tensor basis) : basis_(std::move(basis)) {}
  const Tensor& like(const Tensor& weight) const {
    const bool is_known = known_.defined() && known_.scalar_type() == weight.scalar_type() &&
                          known_.device() == weight.device() && of_ == basis_.data_ptr() &&
                          version_ == basis_._version();
    if (!is_known) {
      known_ = basis_.detach().to(weight.options().requires_grad(false));
      of_ = basis_.data_ptr(), version_ = basis_._version();
    }
    return known_;
  }

 private:
  Tensor basis_;
  mutable Tensor known_;
  mutable const void* of_ = nullptr;
  mutable int64_t version_ = 0;
};

/// The basis of a source, scaled by a degree where there is one: the rows a of a copy become
/// sum_a' lambda^_a'a B_a'.
class ScaledBasis {
 public:
  ScaledBasis(const Source& source, const Degree* degree)
      : basis_(source.basis), copies_(source.copies), converted_(source.basis), degree_(degree) {}

  const Tensor& like(const Tensor& weight) const {
    if (!degree_) return converted_.like(weight);
    const bool has_graph = degree_->theta().requires_grad() && torch::GradMode::is_enabled();
    const auto is_known = [&] {
      return known_.defined() && !has_graph && known_.scalar_type() == weight.scalar_type() &&
             known_.device() == weight.device() && !known_.requires_grad() &&
             torch::equal(of_, degree_->theta());
    };
    if (!is_known()) {
      known_ = scaled().to(weight.options().requires_grad(false));
      of_ = degree_->theta().detach().clone();
    }
    return known_;
  }

 private:
  Tensor scaled() const {
    const auto basis = basis_.to(torch::kFloat64).to(degree_->theta().device());
    const auto expectations = degree_->expectations();
    std::vector<Tensor> rows;
    int64_t at = 0;
    for (size_t i = 0; i < copies_.size(); ++i) {
      if (copies_[i] == 0) continue;
      const auto d = expectations[i].size(0);
      rows.push_back(expectations[i]
                         .t()
                         .matmul(basis.narrow(0, at, copies_[i] * d).view({copies_[i], d, -1}))
                         .flatten(0, 1));
      at += copies_[i] * d;
    }
    return torch::cat(rows).view(basis.sizes());
  }

  Tensor basis_;
  std::vector<int64_t> copies_;
  Converted converted_;
  const Degree* degree_;
  mutable Tensor known_, of_;
};

}  // namespace

/// One kind of output fields: n_b fields of d_b channels.
template <class Conv>
class SteerableConv<Conv>::Map : public ExpandedBlock<Conv> {
 public:
  Map(const Tensor& weight, const Geometry& geometry, const std::vector<Source>& sources,
      int64_t inputs, const Degree* degree)
      : ExpandedBlock<Conv>(weight, geometry), inputs_(inputs), degree_(degree) {
    for (const auto& source : sources) sources_.push_back({source, ScaledBasis(source, degree)});
    size_ = sources[0].basis.size(1);
  }

  std::vector<Tensor> hyperparameters() const override {
    return degree_ ? std::vector<Tensor>{degree_->theta()} : std::vector<Tensor>();
  }

  Tensor to_positions(const Tensor& y) const override {  // [m, n_b d_b, ...] -> [1, m, d_b T, n_b]
    return y.reshape({y.size(0), fields(), size_, -1})
        .permute({0, 2, 3, 1})
        .flatten(1, 2)
        .unsqueeze(0);
  }
  Tensor from_positions(const Tensor& y, const Tensor& x) const override {
    std::vector<int64_t> shape = {y.size(1), fields() * size_};
    const auto grid = this->geometry_.output_of(x.sizes());
    shape.insert(shape.end(), grid.begin(), grid.end());
    return y[0].unflatten(1, {size_, -1}).permute({0, 3, 1, 2}).reshape(shape);
  }

  Tensor kernel(const Tensor& matrix) const override {
    const auto p = this->geometry_.points();
    std::vector<Tensor> columns;
    int64_t at = 0;
    for (const auto& [source, converted] : sources_) {
      const auto basis = converted.like(matrix).flatten(1);  // [N, d_b d_a P]
      const auto count = source.fields * basis.size(0);
      columns.push_back(matrix[0]
                            .narrow(1, at, count)
                            .reshape({fields() * source.fields, basis.size(0)})
                            .mm(basis)
                            .view({fields(), source.fields, size_, source.channels, p})
                            .permute({0, 2, 1, 3, 4})
                            .reshape({fields() * size_, source.fields * source.channels, p}));
      at += count;
    }
    const auto all = columns.size() == 1 ? columns[0] : torch::cat(columns, 1);
    return all.view(kernel_sizes());
  }

 protected:
  std::vector<int64_t> kernel_sizes() const override {
    return this->geometry_.weight_shape(fields() * size_, inputs_);
  }

  Tensor pull_back(const Tensor& kernel) const override {
    const auto all = kernel.reshape({fields(), size_, inputs_, -1});
    std::vector<Tensor> columns;
    for (const auto& [source, converted] : sources_) {
      const auto basis = converted.like(kernel).flatten(1);
      columns.push_back(all.narrow(2, source.first, source.fields * source.channels)
                            .unflatten(2, {source.fields, source.channels})
                            .permute({0, 2, 1, 3, 4})
                            .reshape({fields() * source.fields, basis.size(1)})
                            .mm(basis.t())
                            .view({1, fields(), source.fields * basis.size(0)}));
    }
    return torch::cat(columns, 2);
  }

  Tensor features(const Tensor& patches) const override {  // [1, n, T, C P] -> [1, n, d_b T, J]
    std::vector<Tensor> components;
    for (int64_t o = 0; o < size_; ++o) components.push_back(by_basis(patches[0], o));
    return torch::cat(components, 1).unsqueeze(0);
  }

  Tensor feature_gram(const Tensor& gram) const override {  // [1, C P, C P] -> [1, J, J]
    Tensor sum;
    for (int64_t o = 0; o < size_; ++o) {
      const auto half = by_basis(gram[0], o);   // [C P, J]
      const auto part = by_basis(half.t(), o);  // [J, J]
      sum = sum.defined() ? sum + part : part;
    }
    return sum.unsqueeze(0);
  }

 private:
  struct Kept {
    Source source;
    ScaledBasis basis;
  };
  int64_t fields() const { return this->weight_.size(0); }

  /// Rows [.., C P] -> [.., J]: what the kernels' component o makes of a patch.
  Tensor by_basis(const Tensor& rows, int64_t o) const {
    const auto p = this->geometry_.points();
    std::vector<Tensor> columns;
    for (const auto& [source, converted] : sources_) {
      const auto each = source.channels * p;
      const auto basis = converted.like(rows).select(1, o).flatten(1);  // [N, d_a P]
      columns.push_back(rows.narrow(-1, source.first * p, source.fields * each)
                            .unflatten(-1, {source.fields, each})
                            .matmul(basis.t())
                            .flatten(-2));
    }
    return columns.size() == 1 ? columns[0] : torch::cat(columns, -1);
  }

  std::vector<Kept> sources_;
  int64_t inputs_, size_ = 1;
  const Degree* degree_;
};

/// A bias on one trivial irrep with equal entries in every channel of a field (regular, trivial
/// fields): the same number in each, and components are positions as those of the weight are.
/// FieldBias has the others.
template <class Conv>
class SteerableConv<Conv>::EvenBias : public BiasBlock {
 public:
  EvenBias(const Tensor& vector, int64_t fields, int64_t size)
      : BiasBlock(vector, broadcast(fields * size), Axis::kFirst), fields_(fields), size_(size) {}

  Tensor to_positions(const Tensor& y) const override {  // [1, m, d_b H W, n_b]
    return y.reshape({y.size(0), fields_, size_, -1})
        .permute({0, 2, 3, 1})
        .flatten(1, 2)
        .unsqueeze(0);
  }
  Tensor from_positions(const Tensor& y, const Tensor& x) const override {
    if (y.size(2) == 1) return BiasBlock::from_positions(y, x);  // one for all
    return y[0].unflatten(1, {size_, -1}).permute({0, 3, 1, 2}).flatten(1);
  }
  Tensor apply(const Tensor& matrix, const Tensor& x) const override {
    return BiasBlock::apply(matrix.reshape({1, -1}).repeat_interleave(size_, -1), x);
  }

 private:
  int64_t fields_, size_;
};

namespace {

/// Which kernels a layer has: those of one irrep, or of all up to a band.
struct Chosen {
  std::optional<Irrep> irrep = {};
  int band = 0;  // as kernel_basis takes it

  /// Their rows, of a basis with all.
  KernelBasis of(const KernelBasis& basis) const {
    if (!irrep) return basis;
    KernelBasis out;
    out.values.resize(0, basis.values.cols());
    for (const auto& part : basis.parts) {
      if (part.irrep.name != irrep->name) continue;
      const auto begin = part.offset, end = part.offset + part.count();
      out.values = basis.values.middleRows(begin, part.count());
      out.inputs.assign(basis.inputs.begin() + begin, basis.inputs.begin() + end);
      out.outputs.assign(basis.outputs.begin() + begin, basis.outputs.begin() + end);
      out.parts = {{part.irrep, 0, part.copies}};
    }
    return out;
  }
  std::string text() const {
    if (!irrep) return fmt::format(" and irreps up to {}", band);
    return irrep->is_trivial ? "" : fmt::format(" and irrep {}", irrep->name);
  }
};

bool is_one_of_equal_entries(const Matrix& columns) {
  return columns.cols() == 1 && (columns.array() - columns(0, 0)).abs().maxCoeff() < 1e-9;
}

Chosen chosen_kernels(const Group& group, const SteerableOptions& options) {
  const auto& words = options.isotypic;
  if (options.degree && !words.empty() && words[0] != '<')
    throw UsageError(fmt::format(
        "a degree scales kernels of all irreps: expected isotypic \"<{}\" with degree = "
        "{}, found \"{}\"",
        *options.degree, *options.degree, words));
  Chosen out;
  if (words.empty() && !options.degree) {
    out.irrep = group.irreps(0)[0];
  } else if (!words.empty() && words[0] != '<') {
    out.irrep = group.irrep(words);
  } else {
    out.band = options.degree.value_or(0);
    const auto* end = words.data() + words.size();
    if (!words.empty() && (std::from_chars(words.data() + 1, end, out.band).ptr != end ||
                           words.size() == 1 || out.band < 0))
      throw UsageError(
          fmt::format("isotypic: expected an irrep, or \"<L\" for all up to a frequency, found "
                      "\"{}\"",
                      words));
    if (group.is_finite()) out.band = std::min(out.band, group.largest_band());
    return out;
  }
  out.band = out.irrep->is_trivial ? kEquivariant : out.irrep->frequency;
  return out;
}

/// The chosen kernels from every kind of input fields to one kind of output fields.
struct Bases {
  std::vector<Tensor> of_input;              // [N, d_b, d_a, kernel...]
  std::vector<std::vector<int64_t>> copies;  // of each, of every irrep up to the band
  int64_t weights = 0;                       // of one output field
};

/// How many kernels lead to an irrep of the output from a kind of irreps.
using Counts = std::map<int, std::map<std::string, double>>;

/// Rows are scaled so that weights of variance 1/J give an irrep of the output the variance of the
/// input: equal parts from every kind of irrep that leads to it, and within one from every kernel.
/// Kernels of a band are counted by the equivariant ones where there are such; with a degree, each
/// by the part of its variance that the density leaves, |lambda^|^2/d of its irrep.
template <class Geometry>
Bases bases_to(const FieldType::Kind& kind, const FieldType& in, const Chosen& chosen,
               const Geometry& geometry, const std::map<std::string, double>& left) {
  const auto size = static_cast<int>(geometry.kernel[0]),
             dilation = static_cast<int>(geometry.dilation[0]);
  std::vector<KernelBasis> bases;
  Counts counts, strict;
  const auto name_of = [](const FieldType::Kind& from, int input) {
    return from.representation.irreps()[static_cast<size_t>(input)].name;
  };
  Bases out;
  for (const auto& from : in.kinds) {
    bases.push_back(chosen.of(kernel_basis(from.representation, kind.representation, size,
                                           default_rings(size, in.group->dimension(), dilation),
                                           dilation, chosen.band)));
    const auto& basis = bases.back();
    for (const auto& part : basis.parts)
      for (auto n = static_cast<size_t>(part.offset);
           n < static_cast<size_t>(part.offset + part.count()); ++n) {
        const auto add = [&](Counts& to, double part_left) {
          to[basis.outputs[n]][name_of(from, basis.inputs[n])] +=
              part_left * static_cast<double>(from.count);
        };
        add(counts, 1);
        if (const auto found = left.find(part.irrep.name); found != left.end())
          add(strict, found->second);
        else if (part.irrep.is_trivial)
          add(strict, 1);
      }
    out.weights += from.count * basis.size();
  }
  if (out.weights == 0)
    throw UsageError(fmt::format("no kernel of size {}{} leads from {} to {} fields", size,
                                 chosen.text(), in.text(), kind.name));
  for (size_t a = 0; a < in.kinds.size(); ++a) {
    const auto& from = in.kinds[a];
    auto& basis = bases[a];
    for (size_t n = 0; n < basis.inputs.size(); ++n) {
      const auto output = basis.outputs[n];
      const auto name = name_of(from, basis.inputs[n]);
      const bool has_strict = strict.contains(output) && strict.at(output).contains(name);
      const auto& into = (has_strict ? strict : counts).at(output);
      basis.values.row(static_cast<Eigen::Index>(n)) *= std::sqrt(
          static_cast<double>(out.weights) / (static_cast<double>(into.size()) * into.at(name)));
    }
    std::vector<int64_t> shape = {basis.size(), kind.representation.size(),
                                  from.representation.size()};
    shape.insert(shape.end(), geometry.kernel.begin(), geometry.kernel.end());
    out.of_input.push_back(as_tensor(basis.values).view(shape));
    std::vector<int64_t> copies;
    for (const auto& irrep : in.group->irreps(std::max(chosen.band, 0))) {
      copies.push_back(0);
      for (const auto& part : basis.parts)
        if (part.irrep.name == irrep.name) copies.back() = part.copies;
    }
    out.copies.push_back(std::move(copies));
  }
  return out;
}

}  // namespace

template <class Conv>
SteerableConv<Conv>::SteerableConv(const FieldType& in, const FieldType& out,
                                   const Options& options)
    : in_(in), out_(out), options_(options) {
  constexpr int kDimension = static_cast<int>(Geometry::kDimension);
  if (in.group->dimension() != kDimension)
    throw UsageError(fmt::format("{} acts on {}, this convolution is one of {}", in.group->name(),
                                 in.group->dimension() == 3 ? "space" : "the plane",
                                 kDimension == 3 ? "space" : "the plane"));
  geometry_.kernel = Geometry::all(options.kernel);
  geometry_.stride = Geometry::all(options.stride);
  geometry_.padding = Geometry::all(options.padding);
  geometry_.dilation = Geometry::all(options.dilation);
  geometry_.circular = options.circular;
  double feature_power = 1;
  if constexpr (requires { geometry_.output_padding; }) {
    geometry_.output_padding = Geometry::all(options.output_padding);
    feature_power = Conv::feature_power_of(geometry_);
  }
  const auto chosen = chosen_kernels(*in.group, options);
  const bool has_trivial = !chosen.irrep || chosen.irrep->is_trivial;
  std::map<std::string, double> left;
  if (options.degree) {
    const auto theta = Degree::peaked(in.group, *options.degree, options.degree_start);
    degree_ = std::make_unique<Degree>(
        in.group, *options.degree, chosen.band,
        this->register_parameter("degree", theta.to(c10::get_default_dtype_as_scalartype())));
    const auto irreps = in.group->irreps(chosen.band);
    const auto expectations = degree_->expectations();
    for (size_t i = 0; i < irreps.size(); ++i)
      if (const double part = expectations[i].square().sum().item<double>();
          part > 1e-12)  // a uniform density's are rounded
        left[irreps[i].name] = part / irreps[i].size;
  }
  int64_t channel = 0;
  for (size_t b = 0; b < out.kinds.size(); ++b) {
    const auto& kind = out.kinds[b];
    const auto bases = bases_to(kind, in, chosen, geometry_, left);
    const bool is_single = out.kinds.size() == 1 && in.kinds.size() == 1;
    std::vector<Source> sources;
    int64_t first = 0;
    for (size_t a = 0; a < in.kinds.size(); ++a) {
      auto kernels = bases.of_input[a];
      const auto place = is_single ? std::string() : fmt::format("_{}_{}", b, a);
      if (kernels.size(0) > 0) {  // without any, these channels are not looked at
        kernels = this->register_buffer("basis" + place, kernels);
        if (degree_) this->register_buffer("basis_copies" + place, torch::tensor(bases.copies[a]));
      }
      const auto& from = in.kinds[a];
      sources.push_back({from.count, first, from.representation.size(), kernels, bases.copies[a]});
      first += from.channels();
    }
    const auto suffix = out.kinds.size() == 1 ? std::string() : fmt::format("_{}", b);
    const double bound = 1 / std::sqrt(static_cast<double>(bases.weights) * feature_power);
    Part part;
    part.map = std::make_unique<Map>(
        this->register_parameter("weight" + suffix,
                                 torch::empty({kind.count, bases.weights}).uniform_(-bound, bound)),
        geometry_, sources, in.channels(), degree_.get());
    part.map->feature_power = feature_power;
    const auto trivial = trivial_columns(kind.representation);
    if (options.bias && has_trivial && trivial.cols() > 0) {
      const auto size = kind.representation.size();
      const auto vector =
          this->register_parameter("bias" + suffix, torch::zeros({kind.count * trivial.cols()}));
      if (is_one_of_equal_entries(trivial))
        part.bias = std::make_unique<EvenBias>(vector, kind.count, size);
      else
        part.bias = std::make_unique<FieldBias>(
            vector, kind.count, this->register_buffer("bias_basis" + suffix, as_tensor(trivial)),
            broadcast(kind.count * size));
      part.map->bias = part.bias.get();
    }
    part.first = channel, part.channels = kind.channels();
    channel += part.channels;
    parts_.push_back(std::move(part));
  }
}

template <class Conv>
SteerableConv<Conv>::~SteerableConv() = default;

template <class Conv>
Tensor SteerableConv<Conv>::kernel() const {
  std::vector<Tensor> rows;
  for (const auto& part : parts_) rows.push_back(part.map->kernel(part.map->value()));
  return rows.size() == 1 ? rows[0] : torch::cat(rows);
}

template <class Conv>
std::pair<Tensor, Tensor> SteerableConv<Conv>::plain() const {
  std::vector<Tensor> biases;
  bool has_bias = false;
  for (const auto& part : parts_) {
    biases.push_back(part.bias ? part.bias->apply(part.bias->value(), {}).flatten()
                               : torch::zeros({part.channels}, part.map->weight().options()));
    has_bias = has_bias || part.bias;
  }
  return {kernel(), has_bias ? torch::cat(biases) : Tensor()};
}

template <class Conv>
Tensor SteerableConv<Conv>::forward(const Tensor& x, Tape* tape) const {
  const auto [w, b] = plain();
  if (tape) tape->x = x, tape->aux = w;
  const auto y = Conv(w, geometry_).apply(w.flatten(1).unsqueeze(0), x);
  return b.defined() ? y + b.view(broadcast(b.numel())) : y;
}

template <class Conv>
Tensor SteerableConv<Conv>::backward(const Tensor& g, const Tape& tape, const Sink& sink,
                                     bool needs_input) const {
  for (const auto& part : parts_) {
    const auto own = parts_.size() == 1 ? g : g.narrow(2, part.first, part.channels);
    sink(*part.map, tape.x, own);
    if (part.bias) sink(*part.bias, tape.x, own);
  }
  if (sink.bend && bends()) sink.bend(*this, tape, g);
  if (!needs_input) return Tensor();
  return unfold(Conv(tape.aux, geometry_).backward_data(fold(g), tape.x), g.size(0));
}

template <class Conv>
Tensor SteerableConv<Conv>::jvp(const Tensor& dx, const Tape& tape,
                                const Tangents& tangents) const {
  Tensor dy;
  if (dx.defined()) {
    if (tangents.bend && bends()) tangents.bend(*this, tape, dx);
    const auto w = bends() ? kernel() : tape.aux;
    dy = unfold(Conv(w, geometry_).apply(w.flatten(1).unsqueeze(0), fold(dx)), dx.size(0));
  }
  for (const auto& part : parts_) {
    auto own = tangents(*part.map, tape.x);
    if (part.bias)
      if (const auto db = tangents(*part.bias, tape.x); db.defined()) {
        if (!own.defined()) {
          std::vector<int64_t> shape = {db.size(0), tape.x.size(0), part.channels};
          const auto grid = geometry_.output_of(tape.x.sizes());
          shape.insert(shape.end(), grid.begin(), grid.end());
          own = torch::zeros(shape, tape.x.options());
        }
        own = add_tangent(own, db);
      }
    if (!own.defined()) continue;
    if (!dy.defined()) {
      auto shape = own.sizes().vec();
      shape[2] = out_.channels();
      dy = torch::zeros(shape, own.options());
    }
    if (parts_.size() == 1) {
      dy = dy + own;
      continue;
    }
    std::vector<int64_t> beside(2 * Geometry::kDimension, 0);  // other kinds' channels
    beside.push_back(part.first);
    beside.push_back(out_.channels() - part.first - part.channels);
    dy = dy + torch::constant_pad_nd(own, beside);
  }
  return dy;
}

template <class Conv>
void SteerableConv<Conv>::before_polyphase(int64_t stride) {
  for (const auto& part : parts_) part.map->phase_stride = stride;
}

template <class Conv>
void SteerableConv<Conv>::visit_blocks(const std::function<void(Block&)>& visit) {
  for (const auto& part : parts_) {
    visit(*part.map);
    if (part.bias) visit(*part.bias);
  }
}

template class SteerableConv<ConvBlock>;
template class SteerableConv<VolumeConvBlock>;
template class SteerableConv<TransposedConvBlock<ConvBlock>>;
template class SteerableConv<TransposedConvBlock<VolumeConvBlock>>;

FieldPool::FieldPool(const FieldType& fields) : channels_(fields.channels()) {
  for (const auto& kind : fields.kinds) kinds_.emplace_back(kind.count, kind.representation.size());
}

Tensor FieldPool::forward(const Tensor& x, Tape* tape) const {
  std::vector<Tensor> values, winners;
  int64_t first = 0;
  for (const auto& [fields, size] : kinds_) {
    const auto [y, winner] = x.narrow(1, first, fields * size).unflatten(1, {fields, size}).max(2);
    const auto start = torch::arange(first, first + fields * size, size, winner.options());
    std::vector<int64_t> shape(static_cast<size_t>(y.dim()), 1);
    shape[1] = fields;
    values.push_back(y), winners.push_back(winner + start.view(shape));
    first += fields * size;
  }
  if (tape) tape->x = x, tape->aux = torch::cat(winners, 1);
  return torch::cat(values, 1);
}

Tensor FieldPool::jvp(const Tensor& dx, const Tape& tape, const Tangents&) const {
  if (!dx.defined()) return dx;
  auto shape = tape.aux.sizes().vec();
  shape.insert(shape.begin(), dx.size(0));
  return dx.gather(2, tape.aux.unsqueeze(0).expand(shape));
}

Tensor FieldPool::transpose(const Tensor& g, const Tape& tape) const {
  std::vector<int64_t> folds(static_cast<size_t>(g.dim()), 1);
  folds[0] = g.size(0) / tape.aux.size(0);
  auto shape = g.sizes().vec();
  shape[1] = channels_;
  return torch::zeros(shape, g.options()).scatter_(1, tape.aux.repeat(folds), g);
}

}  // namespace evariste
