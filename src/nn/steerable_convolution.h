// Steerable convolutions: kernels that a group of the plane (Weiler & Cesa 2019, arXiv 1911.08251)
// or of space (Weiler et al. 2018, arXiv 1807.02547) keeps, so that turning the input turns the
// output, field by field.
//
// Between fields of representations rho_a (d_a channels) and rho_b the kernel is sum_n w_n B_n with
// the basis B of groups/kernel_basis.h. For n_b fields of kind b,
//
//     y[u, o, t] = sum_j W_b[u, j] phi[o, t, j],   phi[o, t, (a, f, n)] = (B_ab,n * x_af)[o, t],
//
// one weight for every field u, input field f and basis kernel n, shared over the d_b components o
// of a field and over pixels t. So every kind of output has one Block, of positions (o, t).
#pragma once

#include "nn/degree.h"
#include "nn/expanded_convolution.h"
#include "nn/field_type.h"
#include "nn/pointwise.h"
#include "nn/transposed_convolution.h"

namespace evariste {

struct SteerableOptions {
  int64_t kernel = 3;  ///< odd
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t output_padding = 0;  ///< of a transposed convolution: not equivariant unless 0
  int64_t dilation = 1;
  bool circular = false;
  bool bias = true;  ///< on the trivial irreps of the output: no other would commute
  /// Which kernels, by the irrep that the group turns them by: the trivial one for those that it
  /// keeps (""), or another one, a pathway out of equivariance. All of them in a Sum are the
  /// convolution with any kernel; how far a layer is equivariant is then a matter of their
  /// priors. "<L" for those of all irreps with frequencies up to L, in one weight.
  std::string isotypic = {};
  /// Those of "<L" ("" for L = degree) scaled by a density on the group with logits up to this
  /// frequency (degree.h).
  std::optional<int> degree = {};
  /// Logarithm of that density at the identity before it is normalised, at the start
  /// (Degree::peaked); 0: uniform, so that the network begins equivariant.
  double degree_start = 0;
};

/// Parameters weight [n_b, J_b] and bias [n_b trivial irreps of b] (weight_b, bias_b, b = 0, 1 ...,
/// where the output has several kinds); buffers basis (basis_b_a) [N, d_b, d_a, k, k], in space
/// [.., k, k, k], float64, with rows scaled so that weights of variance 1/J give every output irrep
/// the variance of its input ("generalised He": Weiler & Cesa 2019, section 2.7, one weight for
/// every copy; with a band of irreps, what the equivariant ones give by themselves, and with a
/// degree those that its start leaves). With a degree also the parameter degree [coefficients],
/// theta of a Degree. basis_copies (basis_copies_b_a) [irreps] then says how many copies of each
/// irrep the basis has. Conv: the block of the plain convolution, ConvBlock or VolumeConvBlock, or
/// a TransposedConvBlock of these, whose kernels are the same.
template <class Conv>
class SteerableConv : public Layer, public HasDegree {
 public:
  using Geometry = typename Conv::Geometry;
  using Options = SteerableOptions;
  /// Throws UsageError where no kernel leads to a kind of output field, and for a degree of kernels
  /// of one irrep.
  SteerableConv(const FieldType& in, const FieldType& out, const Options& options);
  ~SteerableConv() override;

  const FieldType& in() const { return in_; }
  const FieldType& out() const { return out_; }
  const Geometry& geometry() const { return geometry_; }
  const Options& options() const { return options_; }
  const Degree* degree() const override { return degree_.get(); }
  /// Of the plain convolution that this one is: [C_out, C_in, kernel...] and [C_out] (undefined
  /// without).
  std::pair<Tensor, Tensor> plain() const;

  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor backward(const Tensor& g, const Tape& tape, const Sink& sink,
                  bool needs_input) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;
  bool bends() const override { return degree_ != nullptr; }
  void before_polyphase(int64_t stride) override;
  void visit_blocks(const std::function<void(Block&)>& visit) override;

 private:
  class Map;
  class EvenBias;
  struct Part {  // one kind of output
    std::unique_ptr<Map> map;
    std::unique_ptr<BiasBlock> bias;
    int64_t first, channels;
  };
  Tensor kernel() const;
  /// [1, channels, 1 ...], as a bias is added.
  static std::vector<int64_t> broadcast(int64_t channels) {
    std::vector<int64_t> shape(Geometry::kDimension + 2, 1);
    shape[1] = channels;
    return shape;
  }

  FieldType in_, out_;
  Options options_;
  Geometry geometry_;
  std::unique_ptr<Degree> degree_;
  std::vector<Part> parts_;
};

extern template class SteerableConv<ConvBlock>;
extern template class SteerableConv<VolumeConvBlock>;
using SteerableConv2d = SteerableConv<ConvBlock>;
using SteerableConv3d = SteerableConv<VolumeConvBlock>;

extern template class ExpandedBlock<TransposedConvBlock<ConvBlock>>;
extern template class ExpandedBlock<TransposedConvBlock<VolumeConvBlock>>;
extern template class SteerableConv<TransposedConvBlock<ConvBlock>>;
extern template class SteerableConv<TransposedConvBlock<VolumeConvBlock>>;
using SteerableConvTranspose2d = SteerableConv<TransposedConvBlock<ConvBlock>>;
using SteerableConvTranspose3d = SteerableConv<TransposedConvBlock<VolumeConvBlock>>;

/// Of every field one channel: its largest (fields of permutations), [n, C, ...] -> [n, fields,
/// ...]; ties go to the first.
class FieldPool : public Gather {
 public:
  explicit FieldPool(const FieldType& fields);
  Tensor forward(const Tensor& x, Tape* tape) const override;
  Tensor jvp(const Tensor& dx, const Tape& tape, const Tangents& tangents) const override;

 protected:
  Tensor transpose(const Tensor& g, const Tape& tape) const override;

 private:
  std::vector<std::pair<int64_t, int64_t>> kinds_;  // fields, channels of each
  int64_t channels_;
};

}  // namespace evariste
