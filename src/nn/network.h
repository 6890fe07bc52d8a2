// Networks from network files: the layers of torch.nn.Sequential in TOML.
#pragma once

#include <toml++/toml.h>

#include <filesystem>
#include <map>

#include "core/stream.h"
#include "nn/combine.h"

namespace evariste {

/// A sequence of layers for inputs of one shape.
class Network : public Sequential {
 public:
  explicit Network(std::vector<int64_t> input) : input_(std::move(input)) {}
  const std::vector<int64_t>& input() const { return input_; }  ///< one sample: {C, H, W} or {D}
  int64_t outputs() const { return outputs_; }
  void set_outputs(int64_t outputs) { outputs_ = outputs; }

  /// n inputs of zeros, in the type and on the device of the weights.
  virtual Tensor zeros(int64_t n) const;

  /// x [n, ...input] -> [n, outputs]; another shape is a UsageError. Images go through it channels
  /// last in memory unless a layer flattens them: convolutions are faster so, backward with a
  /// stride three times.
  Tensor forward(const Tensor& x, Tape* tape = nullptr) const override;

 private:
  Tensor laid_out(const Tensor& x) const;

  std::vector<int64_t> input_;
  int64_t outputs_ = 0;
};

/// Builds the network of a table with keys `input` and `layer`. `file` names it in errors. Unknown
/// keys, types and impossible shapes are UsageErrors with the layer's place, as "layer[3].of[1]".
/// `classes`, the number of labels, stands for the width in `out = "classes"`; 0: not known, and
/// that width is an error.
std::shared_ptr<Network> build_network(const toml::table& table, std::string_view file,
                                       int64_t classes = 0);
/// The same for a file that is such a table, or an experiment's with it under [network]. No such
/// file and bad syntax are UsageErrors, a file that cannot be read an IoError.
std::shared_ptr<Network> load_network(const std::filesystem::path& file, int64_t classes = 0);

/// Names of the layer types, for messages and tests.
std::vector<std::string> layer_types();

/// Fresh weights from named streams, parameter by parameter, so that adding a layer changes no
/// other. Weights of pathways are N(0, v_k 2/fan_in) with zero biases, v_k such that the mean of
/// the K pathways of a Sum has He's variance: v_k = K^2 r_k / sum r, r_0 = lean, others 1.
/// Everything else as torch does. Rows of the first Sum alternate in the sign of their sum, which
/// keeps their law.
void initialise(Network& network, const Stream& stream, double lean = 1);

/// Precision of each block, in order, at which the prior of a weight equals its initialisation
/// ("matched"): 1/Var(init) in pathways, fan_in/2 elsewhere; 1 for biases.
std::vector<double> matched_precisions(Network& network, double lean = 1);

/// One tensor of a safetensors file; types other than F32, F64, F16, BF16, I64, U8 are UsageErrors.
struct SafeTensor;
Tensor to_tensor(const SafeTensor& tensor, std::string_view file);
SafeTensor to_safe_tensor(const std::string& name, const Tensor& tensor);

/// Weights as safetensors under the names of the state_dict. Missing, extra or misshapen tensors
/// are UsageErrors; NaN is one too.
void load_weights(Network& network, const std::filesystem::path& file);
void save_weights(const Network& network, const std::filesystem::path& file);
/// SHA-256 of all parameters and buffers with their names, in the network's own type.
std::string weights_digest(const Network& network);

}  // namespace evariste
