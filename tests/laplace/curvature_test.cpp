// Every structure of curvature against the dense GGN of autograd Jacobians, for every layer.
#include "tests/catch.h"

#include "core/error.h"
#include "laplace/hyper_gradient.h"
#include "laplace/low_rank.h"
#include "nn/linear.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

constexpr int64_t kSamples = 5;

void check_close(const Tensor& found, const Tensor& expected, double tolerance = 1e-10) {
  REQUIRE(found.sizes() == expected.sizes());
  // The floor: diag p - p p^T of a saturated network is the difference of two numbers near 1.
  const auto scale = std::max(1e-2, expected.abs().max().item<double>());
  const auto error = (found - expected).abs().max().item<double>();
  INFO(fmt::format("error {:.3g}, scale {:.3g}", error, scale));
  CHECK(error < tolerance * scale);
}

Samples samples_of(const LayerExample& example, int64_t n = kSamples) {
  return {example.inputs(n), random_labels(n, 3, 4)};
}

/// Parameters that blocks have: all but the hyper-parameters among them, as a degree.
std::vector<Tensor> weights_of(Network& network) {
  const auto hyper = named_hyperparameters(network);
  std::vector<Tensor> out;
  for (const auto& item : network.named_parameters())
    if (std::none_of(hyper.begin(), hyper.end(),
                     [&](const auto& leaf) { return leaf.first == item.key(); }))
      out.push_back(item.value());
  return out;
}

/// Groups share a bias, or it is on some components of a field.
bool has_no_joint_blocks(const Network& network) {
  bool none = false;
  for (const auto* block : named_blocks(const_cast<Network&>(network)))
    none = none || (block->bias &&
                    (!block->bias->is_everywhere ||
                     block->bias->parameters() != block->value().size(0) * block->value().size(1)));
  return none;
}

}  // namespace

TEST_CASE("the full curvature is the dense GGN of every network", "[laplace]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto fit = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
    const auto& full = dynamic_cast<const DenseCurvature&>(*fit.curvature);
    CHECK(full.blocks().size() == weights_of(*network).size());
    check_close(full.hessian(), dense_ggn(*network, Softmax(), data.x, full.blocks()));
    CHECK(fit.log_likelihood ==
          Approx(Softmax().log_density(network->forward(data.x), data.y).sum().item<double>()));
  }
}

TEST_CASE("the block curvature is the full one's blocks on the diagonal", "[laplace]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto full = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
    const auto block = fit_curvature(*network, Softmax(), data, options_of(Structure::kBlock));
    const auto& h = dynamic_cast<const DenseCurvature&>(*full.curvature).hessian();
    const auto& each = dynamic_cast<const BlockCurvature&>(*block.curvature);
    for (size_t m = 0; m < each.blocks().size(); ++m)
      check_close(each.hessian(m), part_of(h, full.curvature->blocks(), m));
    // Per block, and as a whole: the log-determinant of what has no entries elsewhere.
    const auto precisions = precisions_of(layerwise_priors(each, 0.3), each);
    const auto log_dets = each.log_det(precisions);
    for (size_t m = 0; m < log_dets.size(); ++m)
      CHECK(log_dets[m].ratio ==
            Approx(log_det_ratio(each.hessian(m), precisions[m])).margin(1e-9));
  }
}

TEST_CASE("a curvature of chosen blocks is its part of that of all", "[laplace]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto all = named_blocks(*network);
    const std::vector<std::string> only = {all.back()->name, all.front()->name};
    for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                                 Structure::kBlock, Structure::kFull}) {
      CAPTURE(example.type, example.title, static_cast<int>(structure));
      auto options = options_of(structure);
      const auto whole = fit_curvature(*network, Softmax(), data, options);
      options.only = only;
      const auto part = fit_curvature(*network, Softmax(), data, options);
      const auto& blocks = part.curvature->blocks();
      REQUIRE(blocks.size() == 2);
      CHECK(blocks[0] == all.front());
      CHECK(blocks[1] == all.back());
      const auto unit = [](const Curvature& c) {
        const Precisions ones(c.blocks().size(), torch::ones({}, torch::kFloat64));
        return dense_precision(c, ones);
      };
      const auto p = unit(*whole.curvature), q = unit(*part.curvature);
      const auto first = blocks[0]->parameters(), last = blocks[1]->parameters();
      check_close(q.narrow(0, 0, first).narrow(1, 0, first),
                  p.narrow(0, 0, first).narrow(1, 0, first));
      const auto end = p.size(0) - last;
      check_close(q.narrow(0, first, last).narrow(1, first, last),
                  p.narrow(0, end, last).narrow(1, end, last));
      if (structure == Structure::kFull)
        check_close(q.narrow(0, 0, first).narrow(1, first, last),
                    p.narrow(0, 0, first).narrow(1, end, last));
    }
  }
}

TEST_CASE("a low-rank curvature of chosen blocks is theirs", "[laplace]") {
  const auto& example = layer_examples()[0];
  const auto network = example.build();
  const auto data = samples_of(example);
  LowRankOptions low;
  low.rank = 100;  // all there are
  low.only = {"0"};
  auto options = options_of(Structure::kFull);
  options.only = low.only;
  const auto full = fit_curvature(*network, Softmax(), data, options);
  const auto part = fit_low_rank(*network, Softmax(), data, low);
  REQUIRE(part.curvature->blocks() == full.curvature->blocks());
  const auto precisions = precisions_of(layerwise_priors(*full.curvature, 0.3), *full.curvature);
  CHECK(part.curvature->log_det_ratio(precisions) ==
        Approx(full.curvature->log_det_ratio(precisions)).epsilon(1e-8));
}

TEST_CASE("a layer that is in a network twice is refused", "[laplace]") {
  const auto network = std::make_shared<Network>(std::vector<int64_t>{3});
  const auto layer = std::make_shared<Linear>(3, 3);
  network->append(layer);
  network->append(layer);
  network->eval();
  const Samples data{torch::randn({4, 3}), torch::zeros({4}, torch::kInt64)};
  CHECK_THROWS_WITH(fit_curvature(*network, Softmax(), data, CurvatureOptions()),
                    Catch::Contains("in the network twice"));
}

TEST_CASE("blocks are chosen by name or by layer, unknown ones refused", "[laplace]") {
  const auto network = network_of(
      "input = [4]\nlayer = [{ type = 'linear', out = 3 }, { type = 'tanh' }, "
      "{ type = 'linear', out = 2 }]");
  std::vector<std::shared_ptr<Block>> owned;
  CurvatureOptions options;
  const auto names = [&](const std::vector<std::string>& only) {
    options.only = only;
    std::vector<std::string> found;
    for (const auto* block : curvature_blocks(*network, options, owned))
      found.push_back(block->name);
    return found;
  };
  CHECK(names({"2"}) == std::vector<std::string>{"2.weight", "2.bias"});
  CHECK(names({"2.bias", "0.weight"}) == std::vector<std::string>{"0.weight", "2.bias"});
  CHECK_THROWS_WITH(names({"2.weigth"}), Catch::Contains("did you mean \"2.weight\"?"));
  options.bias = BiasCurvature::kJoint;
  CHECK(names({"0", "2.weight"}) == std::vector<std::string>{"0.weight+bias", "2.weight"});
  options.structure = Structure::kLastLayer;
  CHECK(names({"0"}) == std::vector<std::string>{"0.weight", "0.bias"});
}

TEST_CASE("the diagonal curvature is the diagonal of the full one", "[laplace]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto full = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
    const auto diag = fit_curvature(*network, Softmax(), data, options_of(Structure::kDiag));
    const auto& h = dynamic_cast<const DenseCurvature&>(*full.curvature).hessian();
    const auto& diagonals = dynamic_cast<const DiagonalCurvature&>(*diag.curvature).diagonals();
    const auto& blocks = diag.curvature->blocks();
    const auto traces = fisher_traces(*network, Softmax(), data, {});
    for (size_t m = 0; m < blocks.size(); ++m) {
      CAPTURE(blocks[m]->name);
      REQUIRE(diagonals[m].sizes() == blocks[m]->value().sizes());
      check_close(diagonals[m].flatten(), part_of(h, blocks, m).diagonal());
      CHECK(diagonals[m].sum().item<double>() == Approx(traces[m]).epsilon(1e-11));
    }
  }
}

TEST_CASE("Kronecker factors have the exact trace, and say what theirs was", "[laplace]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto data = samples_of(example);
    for (const auto sharing : {Sharing::kExpand, Sharing::kReduce}) {
      CurvatureOptions options;
      options.sharing = sharing;
      const auto corrected = fit_curvature(*network, Softmax(), data, options);
      options.correction = Correction::kNone;
      const auto plain = fit_curvature(*network, Softmax(), data, options);
      const auto& k = dynamic_cast<const KronCurvature&>(*corrected.curvature).factors();
      const auto& p = dynamic_cast<const KronCurvature&>(*plain.curvature).factors();
      const auto traces = fisher_traces(*network, Softmax(), data, options);
      for (size_t m = 0; m < k.size(); ++m) {
        CAPTURE(example.type, example.title, corrected.curvature->blocks()[m]->name);
        const auto trace = dense_kron(k[m]).trace().item<double>();
        CHECK(trace == Approx(traces[m]).epsilon(1e-10).margin(1e-14));
        CHECK(p[m].correction == 1.0);
        if (trace > 1e-12)
          CHECK(corrected.curvature->trace_ratios()[m] ==
                Approx(dense_kron(p[m]).trace().item<double>() / traces[m]).epsilon(1e-10));
        CHECK(std::isnan(plain.curvature->trace_ratios()[m]));
      }
    }
  }
}

TEST_CASE("for one sample a Kronecker block without sharing is the dense one", "[laplace]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto data = samples_of(example, 1);
    CurvatureOptions options;
    options.correction = Correction::kNone;
    const auto fit = fit_curvature(*network, Softmax(), data, options);
    const auto& blocks = fit.curvature->blocks();
    const auto& factors = dynamic_cast<const KronCurvature&>(*fit.curvature).factors();
    const auto h = dense_ggn(*network, Softmax(), data.x, blocks);
    std::map<const Block*, int64_t> positions;
    {
      torch::NoGradGuard no_grad;
      Tape tape;
      const auto f = network->forward(data.x, &tape);
      network->backward(
          f.unsqueeze(0), tape,
          [&](const Block& block, const Tensor&, const Tensor& g) {
            positions[&block] = block.to_positions(fold(g)).size(2);
          },
          false);
    }
    for (size_t m = 0; m < blocks.size(); ++m) {
      CAPTURE(example.type, example.title, blocks[m]->name);
      const auto shape = blocks[m]->value().sizes().vec();
      const auto size = shape[1] * shape[2];
      // Sums over positions are exact for biases and for one weight per group.
      if (positions[blocks[m]] > 1 && !blocks[m]->is_bias && size > 1) continue;
      const auto dense = dense_kron(factors[m]), exact = part_of(h, blocks, m);
      for (int64_t q = 0; q < shape[0]; ++q) {
        const auto group = [&](const Tensor& t) {
          return t.narrow(0, q * size, size).narrow(1, q * size, size);
        };
        check_close(group(dense), group(exact));
      }
    }
  }
}

TEST_CASE("exact bias blocks and normalisation weights are exact for any data", "[laplace]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto fit = fit_curvature(*network, Softmax(), data, {});
    const auto& blocks = fit.curvature->blocks();
    const auto& factors = dynamic_cast<const KronCurvature&>(*fit.curvature).factors();
    const auto h = dense_ggn(*network, Softmax(), data.x, blocks);
    for (size_t m = 0; m < blocks.size(); ++m) {
      CAPTURE(example.type, example.title, blocks[m]->name);
      const auto exact = part_of(h, blocks, m), dense = dense_kron(factors[m]);
      const auto shape = blocks[m]->value().sizes().vec();
      if (blocks[m]->is_bias) check_close(dense, exact);
      if (shape[1] * shape[2] == 1) check_close(dense.diagonal(), exact.diagonal());
    }
  }
}

TEST_CASE("a norm's weight and bias are exact together for each channel", "[laplace]") {
  for (const auto& example : layer_examples()) {
    const auto network = example.build();
    const auto data = samples_of(example);
    for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kBlock}) {
      auto options = options_of(structure);
      options.norm = NormCurvature::kJoint;
      const auto fit = fit_curvature(*network, Softmax(), data, options);
      const auto& blocks = fit.curvature->blocks();
      Precisions none(blocks.size(), torch::zeros({}, torch::kFloat64));
      const auto found = dense_precision(*fit.curvature, none);
      int norms = 0;
      for (size_t m = 0; m < blocks.size(); ++m) {
        const auto* joint = dynamic_cast<const JointBlock*>(blocks[m]);
        if (!joint) continue;
        ++norms;
        CAPTURE(example.type, example.title, static_cast<int>(structure), joint->name);
        const auto h =
            dense_ggn(*network, Softmax(), data.x, {&joint->weight_block(), &joint->bias_block()});
        const auto channels = h.size(0) / 2;
        const auto order =  // weight and bias of a channel beside each other
            torch::arange(2 * channels).view({2, channels}).t().flatten();
        auto exact = h.index_select(0, order).index_select(1, order);
        if (structure != Structure::kBlock) {
          const auto channel = torch::arange(2 * channels).floor_divide(2);
          exact = exact * (channel.unsqueeze(0) == channel.unsqueeze(1));
        }
        check_close(part_of(found, blocks, m), exact);
      }
      const bool has_norm = example.type.ends_with("norm") &&  // not of lengths
                            example.layers.find("affine = false") == std::string::npos;
      CHECK((norms > 0 || !has_norm));
    }
  }
}

TEST_CASE("a last-layer curvature is a part of the full one", "[laplace]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto data = samples_of(example);
    const auto last = fit_curvature(*network, Softmax(), data, options_of(Structure::kLastLayer));
    const auto& curvature = dynamic_cast<const DenseCurvature&>(*last.curvature);
    REQUIRE(curvature.blocks().size() == 2);
    check_close(curvature.hessian(), dense_ggn(*network, Softmax(), data.x, curvature.blocks()));
    CHECK(curvature.structure() == "lastlayer");
  }
}

TEST_CASE("a last layer with many positions, and one without bias, are parts of the full one",
          "[laplace]") {
  for (const std::string layers :
       {"{ type = 'conv', out = 3, kernel = 3 }, { type = 'global_avgpool' }",
        "{ type = 'flatten' }, { type = 'linear', out = 3, bias = false }"}) {
    CAPTURE(layers);
    const auto network = network_of(
        "input = [2, 5, 5]\nlayer = [{ type = 'conv', out = 2, kernel = 2 }, " + layers + "]");
    randomise(*network, 1);
    const Samples data{random_tensor({9, 2, 5, 5}, 2), random_labels(9, 3, 3)};
    const auto full = fit_curvature(*network, Softmax(), data, options_of(Structure::kFull));
    const auto last = fit_curvature(*network, Softmax(), data, options_of(Structure::kLastLayer));
    const auto& whole = dynamic_cast<const DenseCurvature&>(*full.curvature).hessian();
    const auto& part = dynamic_cast<const DenseCurvature&>(*last.curvature).hessian();
    const auto begin = whole.size(0) - part.size(0);
    check_close(part, whole.slice(0, begin).slice(1, begin));
  }
}

TEST_CASE("joint blocks have the full curvature of weights and biases", "[laplace]") {
  for (const auto& example : layer_examples()) {
    CAPTURE(example.type, example.title);
    const auto network = example.build();
    const auto data = samples_of(example);
    auto options = options_of(Structure::kFull);
    const auto apart = fit_curvature(*network, Softmax(), data, options);
    options.bias = BiasCurvature::kJoint;
    if (has_no_joint_blocks(*network)) {
      CHECK_THROWS_AS(fit_curvature(*network, Softmax(), data, options), UsageError);
      continue;
    }
    const auto joint = fit_curvature(*network, Softmax(), data, options);
    int64_t parameters = 0;
    for (const auto* block : joint.curvature->blocks()) parameters += block->parameters();
    int64_t expected = 0;
    for (const auto& p : weights_of(*network)) expected += p.numel();
    CHECK(parameters == expected);
    const auto ratio = [](const Fit& fit) {
      return fit.curvature->log_det_ratio(
          precisions_of(layerwise_priors(*fit.curvature, 0.7), *fit.curvature));
    };
    CHECK(ratio(joint) == Approx(ratio(apart)).epsilon(1e-10));
    options.structure = Structure::kKron;
    CHECK_NOTHROW(fit_curvature(*network, Softmax(), data, options));
  }
}

TEST_CASE("all likelihoods give the GGN of their Hessian", "[laplace]") {
  const auto network = network_of(
      "input = [3]\nlayer = [{ type = 'linear', out = 4 }, { type = 'tanh' }, "
      "{ type = 'linear', out = 2 }]");
  randomise(*network, 1);
  const auto x = random_tensor({6, 3}, 2), target = random_tensor({6, 2}, 3);
  const std::vector<std::pair<std::shared_ptr<Likelihood>, Tensor>> cases = {
      {std::make_shared<Softmax>(), target.argmax(1)},
      {std::make_shared<Gaussian>(0.3), target},
      {std::make_shared<Bernoulli>(), target.sigmoid()}};
  for (const auto& [likelihood, y] : cases) {
    CAPTURE(likelihood->name());
    const auto fit = fit_curvature(*network, *likelihood, {x, y}, options_of(Structure::kFull));
    const auto& h = dynamic_cast<const DenseCurvature&>(*fit.curvature).hessian();
    check_close(likelihood->curvature_scale() * h,
                dense_ggn(*network, *likelihood, x, fit.curvature->blocks()));
  }
}

TEST_CASE("combinations that are not defined are refused", "[laplace]") {
  const auto grouped = network_of(
      "input = [2, 3, 3]\nlayer = [{ type = 'conv', out = 2, kernel = 2, groups = 2 }, "
      "{ type = 'flatten' }, { type = 'dropout' }, { type = 'linear', out = 3 }]");
  randomise(*grouped, 1);
  const Samples data{random_tensor({4, 2, 3, 3}, 2), random_labels(4, 3, 3)};
  CurvatureOptions options;
  options.bias = BiasCurvature::kExpand;
  CHECK_THROWS_AS(fit_curvature(*grouped, Softmax(), data, options), UsageError);
  options.sharing = Sharing::kReduce;
  CHECK_THROWS_AS(fit_curvature(*grouped, Softmax(), data, options), UsageError);
  grouped->train();
  CHECK_THROWS_WITH(fit_curvature(*grouped, Softmax(), data, {}), Contains("dropout"));
  grouped->eval();
  const auto coupled =
      network_of("input = [2]\nlayer = [{ type = 'linear', out = 3 }, { type = 'batchnorm' }]");
  coupled->train();
  CHECK_THROWS_WITH(
      fit_curvature(*coupled, Softmax(), {random_tensor({4, 2}, 2), random_labels(4, 3, 3)}, {}),
      Contains("batchnorm"));
  torch::NoGradGuard no_grad;
  grouped->parameters()[0].fill_(std::numeric_limits<double>::quiet_NaN());
  CHECK_THROWS_AS(fit_curvature(*grouped, Softmax(), data, {}), NumericalError);
}
