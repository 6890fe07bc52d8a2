// Several processes that fit one curvature together, each from its part of the data.
//
// Every process sums over its own samples; the sums are added up once a fit (symmetric factors as
// their lower triangles), eigendecompositions are dealt out by cost, and all processes end with the
// same numbers, bit for bit. All of them must call the same functions in the same order.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/error.h"
#include "laplace/shape.h"

namespace evariste {

/// Another process has ended or cannot be reached. Exit code 1.
struct ProcessLost : Error {
  explicit ProcessLost(const std::string& message) : Error(1, message) {}
};

/// What exchanges need of a launcher's processes.
class Processes {
 public:
  virtual ~Processes() = default;
  virtual int64_t rank() const = 0;  ///< of this process, 0 ... size - 1
  virtual int64_t size() const = 0;
  /// Where many numbers are exchanged fastest; tensors of other devices are copied for it.
  virtual torch::Device device() const { return torch::kCPU; }
  /// Adds up a contiguous tensor in place; all ranks get the same bits.
  virtual void sum(Tensor& tensor) const = 0;
  /// Copies a contiguous tensor of process `from` to all others.
  virtual void broadcast(Tensor& tensor, int64_t from) const = 0;
};

/// Adds up all tensors in place, float64, in one exchange.
void sum_over(const Processes& processes, const std::vector<Tensor>& tensors);
/// The same for symmetric matrices [Q, D, D]: half of the bytes.
void sum_symmetric_over(const Processes& processes, const std::vector<Tensor>& matrices);
double sum_over(const Processes& processes, double value);
double greatest_over(const Processes& processes, double value);
/// Does this process's part of a work without exchanges. The NumericalError of one is thrown by
/// all, with its sentence, so that none waits for one that has given up. Null: just does it.
void do_part(const Processes* processes, const std::function<void()>& work);
/// The numbers of process 0 for all, where rounding may have made them differ.
void agree(const Processes& processes, const std::vector<Tensor>& tensors);

/// [Q, D, D] -> [Q, D (D + 1)/2], the lower triangles by rows; and back, both halves filled.
Tensor pack_symmetric(const Tensor& matrices);
Tensor unpack_symmetric(const Tensor& packed, int64_t dimension);

/// Which process does which item: the largest cost first, each to the one with least to do so far.
std::vector<int64_t> deal_out(const std::vector<double>& costs, int64_t processes);

/// The processes that a launcher has started, found from its environment: torchrun's RANK,
/// WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or under srun SLURM_PROCID and SLURM_STEP_NUM_TASKS
/// with the last two set by hand. Null where there is only one. Waits for the others to start at
/// most `timeout_seconds`; throws UsageError for an environment that is incomplete. A process that
/// dies makes the next exchange of all others throw ProcessLost.
///
/// Exchanges go over TCP by gloo, on the CPU, where tensors of a GPU are copied for them; those of
/// tensors on `device` by NCCL where each process has a GPU of its own.
std::unique_ptr<Processes> join_processes(double timeout_seconds = 60,
                                          torch::Device device = torch::kCPU);

/// Whether every process computes on a GPU and no two on the same one; `host` names the machine.
bool have_own_gpus(const Processes& processes, int64_t host, torch::Device device);

/// The rank that the launcher gave, without waiting for the others; 0 where there is only one.
int64_t launched_rank();

}  // namespace evariste
