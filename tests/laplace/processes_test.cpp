// A curvature fitted by several processes is the one of a single process. The processes are
// threads here; the programs' test starts real ones.
#include "tests/catch.h"

#include <barrier>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "laplace/low_rank.h"
#include "laplace/polish.h"
#include "tests/laplace/brute_force.h"

using namespace evariste;

namespace {

/// What the threads of one test share.
struct Exchange {
  explicit Exchange(int64_t size) : all(size) {}
  std::barrier<> all;
  std::mutex lock;
  Tensor board;
};

class ThreadProcesses : public Processes {
 public:
  ThreadProcesses(Exchange& exchange, int64_t rank, int64_t size)
      : exchange_(exchange), rank_(rank), size_(size) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  void sum(Tensor& tensor) const override {
    for (int64_t turn = 0; turn < size_; ++turn) {  // in the order of ranks
      if (turn == rank_) exchange_.board = turn == 0 ? tensor.clone() : exchange_.board + tensor;
      exchange_.all.arrive_and_wait();
    }
    tensor.copy_(exchange_.board);
    exchange_.all.arrive_and_wait();
  }
  void broadcast(Tensor& tensor, int64_t from) const override {
    if (rank_ == from) exchange_.board = tensor.clone();
    exchange_.all.arrive_and_wait();
    tensor.copy_(exchange_.board);
    exchange_.all.arrive_and_wait();
  }

 private:
  Exchange& exchange_;
  int64_t rank_, size_;
};

/// Runs work(processes) in `size` threads and gives what the ranks returned.
std::vector<std::vector<double>> in_threads(
    int64_t size, const std::function<std::vector<double>(const Processes&)>& work) {
  Exchange exchange(size);
  std::vector<std::vector<double>> results(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      torch::NoGradGuard no_grad;
      results[static_cast<size_t>(rank)] = work(ThreadProcesses(exchange, rank, size));
    });
  for (auto& thread : threads) thread.join();
  return results;
}

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
          for (const auto& share : in_threads(size, [&](const Processes& processes) {
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
  for (const auto& share : in_threads(2, [&](const Processes& processes) {
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
  for (const auto& share :
       in_threads(3, [&](const Processes& processes) { return numbers(&processes); }))
    for (size_t i = 0; i < one.size(); ++i) CHECK(share[i] == Approx(one[i]).epsilon(1e-9));
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
  for (const auto* name : {"RANK", "SLURM_STEP_NUM_TASKS"}) set(name, nullptr);
}
