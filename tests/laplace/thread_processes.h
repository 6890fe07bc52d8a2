// Processes that are threads of the test; the programs' tests start real ones.
#pragma once

#include <barrier>
#include <functional>
#include <thread>

#include "laplace/processes.h"

namespace evariste {

/// What the threads of one test share.
struct Exchange {
  explicit Exchange(int64_t size) : all(size) {}
  std::barrier<> all;
  Tensor board;
};

class ThreadProcesses : public Processes {
 public:
  ThreadProcesses(Exchange& exchange, int64_t rank, int64_t size)
      : exchange_(exchange), rank_(rank), size_(size) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  void sum(Tensor& tensor) const override {
    torch::NoGradGuard no_grad;
    for (int64_t turn = 0; turn < size_; ++turn) {  // in the order of ranks
      if (turn == rank_) exchange_.board = turn == 0 ? tensor.clone() : exchange_.board + tensor;
      exchange_.all.arrive_and_wait();
    }
    tensor.copy_(exchange_.board);
    exchange_.all.arrive_and_wait();
  }
  void broadcast(Tensor& tensor, int64_t from) const override {
    torch::NoGradGuard no_grad;
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
template <class Result>
std::vector<Result> in_threads(int64_t size, const std::function<Result(const Processes&)>& work) {
  Exchange exchange(size);
  std::vector<Result> results(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      results[static_cast<size_t>(rank)] = work(ThreadProcesses(exchange, rank, size));
    });
  for (auto& thread : threads) thread.join();
  return results;
}

}  // namespace evariste
