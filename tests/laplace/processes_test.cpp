// A curvature fitted by several processes is the one of a single process.
#include "tests/catch.h"

#include "core/error.h"
#include "laplace/low_rank.h"
#include "laplace/polish.h"
#include "tests/laplace/brute_force.h"
#include "tests/laplace/thread_processes.h"

using namespace evariste;

namespace {

/// Everything that a fit is asked for.
std::vector<double> numbers_of(const LayerExample& example, const CurvatureOptions& options,
                               int64_t total, const Processes* processes) {
  const auto network = example.build();
  constexpr int64_t kSamples = 11;
  Samples data{example.inputs(kSamples), random_labels(kSamples, 3, 4), total};
  if (processes) data = share_of(data, *processes);
  const Softmax likelihood;
  const auto fit = fit_curvature(*network, likelihood, data, options);
  const auto priors = layerwise_priors(*fit.curvature, 0.3);
  const auto evidence = evaluate_evidence(fit, likelihood, priors);
  const auto checks = check_evidence(*network, likelihood, data, fit, priors, 1.0, Stream(3), 4, 2);
  std::vector<double> out = {evidence.log_evidence,
                             evidence.log_likelihood,
                             fit.dropped,
                             fit.columns,
                             checks.newton_decrement,
                             checks.linearised_gap,
                             checks.alive ? 1.0 : 0.0};
  for (const auto& block : evidence.blocks) out.push_back(block.effective_dimension);
  for (const auto trace : fisher_traces(*network, likelihood, data, options)) out.push_back(trace);
  for (const auto& step : polish(*network, likelihood, data, priors, 1.0, options, 2))
    out.push_back(step.objective);
  return out;
}

}  // namespace

TEST_CASE("several processes fit what one fits", "[processes]") {
  const LayerExample nets[] = {layer_examples()[0], layer_examples()[3], layer_examples()[8]};
  for (const auto& net : nets)
    for (const auto structure : {Structure::kKron, Structure::kEkfac, Structure::kDiag,
                                 Structure::kBlock, Structure::kFull, Structure::kLastLayer})
      for (const auto fisher : {Fisher::kExact, Fisher::kMonteCarlo})
        for (const int64_t size : {2, 4}) {
          CAPTURE(net.title, structure, fisher, size);
          CurvatureOptions options;
          options.structure = structure;
          options.fisher = fisher;
          options.batch = 3;
          const auto one = numbers_of(net, options, 22, nullptr);
          for (const auto& share :
               in_threads<std::vector<double>>(size, [&](const Processes& processes) {
                 return numbers_of(net, options, 22, &processes);
               })) {
            REQUIRE(share.size() == one.size());
            for (size_t i = 0; i < one.size(); ++i) {
              CAPTURE(i);
              if (!std::isnan(one[i]))
                CHECK(share[i] == Approx(one[i]).epsilon(1e-10).margin(1e-12));
            }
          }
        }
}

TEST_CASE("several processes leave out the columns that one leaves out", "[processes]") {
  CurvatureOptions options;
  options.rank_tolerance = 0.3;
  const auto one = numbers_of(layer_examples()[0], options, 0, nullptr);
  for (const auto& share : in_threads<std::vector<double>>(2, [&](const Processes& processes) {
         return numbers_of(layer_examples()[0], options, 0, &processes);
       }))
    CHECK(share[2] <= 0.3);  // chunks keep the columns of their neediest sample, so not the same
  CHECK(one[2] <= 0.3);
}

TEST_CASE("several processes fit the low-rank curvature of one", "[processes]") {
  const auto numbers = [](const Processes* processes) {
    const auto& example = layer_examples()[0];
    const auto network = example.build();
    Samples data{example.inputs(10), random_labels(10, 3, 4)};
    if (processes) data = share_of(data, *processes);
    LowRankOptions options;
    options.rank = 5;
    const auto fit = fit_low_rank(*network, Softmax(), data, options);
    const auto evidence = evaluate_evidence(fit, Softmax(), layerwise_priors(*fit.curvature, 0.3));
    return std::vector<double>{evidence.log_evidence, evidence.log_likelihood};
  };
  const auto one = numbers(nullptr);
  for (const auto& share : in_threads<std::vector<double>>(
           3, [&](const Processes& processes) { return numbers(&processes); }))
    for (size_t i = 0; i < one.size(); ++i) CHECK(share[i] == Approx(one[i]).epsilon(1e-9));
}

TEST_CASE("rows come together in the order of the samples", "[processes]") {
  const Samples whole{torch::arange(7).view({7, 1}), torch::arange(7)};
  for (const auto& all : in_threads<Tensor>(3, [&](const Processes& processes) {
         const auto share = share_of(whole, processes);
         return share.gather(share.y);
       })) {
    CHECK(all.scalar_type() == torch::kInt64);
    CHECK(torch::equal(all, whole.y));
  }
  CHECK(torch::equal(whole.gather(whole.y), whole.y));
}

TEST_CASE("what one process cannot compute, all refuse with its sentence", "[processes]") {
  const auto found = [](int64_t failing, const Processes& processes) -> std::string {
    try {
      do_part(&processes, [&] {
        if (processes.rank() >= failing)
          throw NumericalError(fmt::format("part {} is not finite", processes.rank()));
      });
    } catch (const NumericalError& error) {
      return error.what();
    }
    return "";
  };
  for (const auto& [failing, sentence] :
       {std::pair(3, ""), std::pair(2, "part 2 is not finite"),
        std::pair(1, "part 1 is not finite"), std::pair(0, "part 0 is not finite")})
    for (const auto& said : in_threads<std::string>(
             3, [&](const Processes& processes) { return found(failing, processes); }))
      CHECK(said == sentence);
  CHECK_THROWS_AS(do_part(nullptr, [] { throw NumericalError("alone"); }), NumericalError);
}

TEST_CASE("outputs of one share that are not finite end the pass of all", "[processes]") {
  const auto network = layer_examples()[0].build();
  Samples whole{layer_examples()[0].inputs(9), random_labels(9, 3, 4)};
  whole.x[8].fill_(std::numeric_limits<double>::quiet_NaN());
  for (const auto& said : in_threads<std::string>(3, [&](const Processes& processes) {
         try {
           fit_curvature(*network, Softmax(), share_of(whole, processes), {});
         } catch (const NumericalError& error) {
           return std::string(error.what());
         }
         return std::string();
       }))
    CHECK_THAT(said, Catch::Contains("network outputs"));
}

TEST_CASE("GPUs are processes' own where no two share one", "[processes]") {
  const auto own = [](const std::vector<int64_t>& hosts, const std::vector<int>& gpus) {
    const auto answers =
        in_threads<bool>(static_cast<int64_t>(hosts.size()), [&](const Processes& processes) {
          const auto rank = static_cast<size_t>(processes.rank());
          const auto device =
              gpus[rank] < 0
                  ? torch::Device(torch::kCPU)
                  : torch::Device(torch::kCUDA, static_cast<c10::DeviceIndex>(gpus[rank]));
          return have_own_gpus(processes, hosts[rank], device);
        });
    for (const int answer : answers) CHECK(answer == answers[0]);
    return answers[0] == 1;
  };
  CHECK(own({7, 7, 9}, {0, 1, 0}));
  CHECK_FALSE(own({7, 7, 9}, {0, 0, 0}));   // two on one GPU
  CHECK_FALSE(own({7, 8, 9}, {0, -1, 0}));  // one on the CPU
}

TEST_CASE("symmetric matrices travel as their lower triangles", "[processes]") {
  const auto rows = random_tensor({2, 3, 7}, 1);
  const auto matrices = rows.transpose(1, 2).matmul(rows);
  const auto packed = pack_symmetric(matrices);
  CHECK(packed.sizes() == at::IntArrayRef({2, 28}));
  CHECK(torch::allclose(unpack_symmetric(packed, 7), matrices, 0, 1e-14));
}

TEST_CASE("work is dealt out by cost, the largest first", "[processes]") {
  CHECK(deal_out({1, 8, 3, 4}, 1) == std::vector<int64_t>{0, 0, 0, 0});
  CHECK(deal_out({1, 8, 3, 4}, 2) == std::vector<int64_t>{1, 0, 1, 1});
  CHECK(deal_out({5, 5, 5}, 3) == std::vector<int64_t>{0, 1, 2});
}

TEST_CASE("shares cover the data, and every process needs a sample", "[processes]") {
  const Samples whole{torch::arange(10).view({10, 1}), torch::arange(10), 30};
  Exchange exchange(4);
  int64_t next = 0;
  for (int64_t rank = 0; rank < 4; ++rank) {
    const ThreadProcesses processes(exchange, rank, 4);
    const auto share = share_of(whole, processes);
    CHECK(share.first == next);
    CHECK(share.y[0].item<int64_t>() == next);
    CHECK(share.weight() == 3);
    next += share.count();
  }
  CHECK(next == 10);
  CHECK_THROWS_AS(share_of(whole, ThreadProcesses(exchange, 0, 11)), UsageError);
}

TEST_CASE("the launcher's environment is read, and an incomplete one refused", "[processes]") {
  const auto set = [](const char* name, const char* value) {
    if (value)
      setenv(name, value, 1);
    else
      unsetenv(name);
  };
  for (const auto* name :
       {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS"})
    set(name, nullptr);
  CHECK(join_processes() == nullptr);
  CHECK(launched_rank() == 0);
  set("WORLD_SIZE", "1");
  CHECK(join_processes() == nullptr);
  set("WORLD_SIZE", "2");
  CHECK_THROWS_WITH(join_processes(), Catch::Contains("RANK is not set"));
  set("RANK", "2");
  CHECK_THROWS_WITH(join_processes(), Catch::Contains("from 0 to 1, found \"2\""));
  set("RANK", "0");
  CHECK_THROWS_WITH(join_processes(), Catch::Contains("MASTER_ADDR is not set"));
  set("WORLD_SIZE", nullptr);
  set("SLURM_STEP_NUM_TASKS", "3");
  CHECK_THROWS_WITH(join_processes(), Catch::Contains("SLURM_STEP_NUM_TASKS says 3 processes") &&
                                          Catch::Contains("SLURM_PROCID is not set"));
  set("SLURM_PROCID", "2");
  set("MASTER_ADDR", "127.0.0.1");
  set("MASTER_PORT", "1");
  CHECK(launched_rank() == 2);
  for (const auto* name :
       {"RANK", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "MASTER_ADDR", "MASTER_PORT"})
    set(name, nullptr);
}
