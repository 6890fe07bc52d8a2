#include "laplace/processes.h"

#include <algorithm>
#include <numeric>

#include "laplace/cuda/bind.h"

namespace evariste {
namespace {

Tensor triangle(int64_t dimension, torch::Device device) {  // of the lower triangle in [D D]
  const auto places = torch::tril_indices(dimension, dimension, 0, device);
  return places[0] * dimension + places[1];
}

}  // namespace

void sum_over(const Processes& processes, const std::vector<Tensor>& tensors) {
  if (tensors.empty()) return;
  torch::NoGradGuard no_grad;
  std::vector<Tensor> flat;
  for (const auto& tensor : tensors)
    flat.push_back(
        tensor.reshape({-1}).to(torch::TensorOptions(torch::kFloat64).device(processes.device())));
  auto all = torch::cat(flat);
  processes.sum(all);
  int64_t begin = 0;
  for (auto tensor : tensors) {
    tensor.copy_(all.narrow(0, begin, tensor.numel()).view(tensor.sizes()));
    begin += tensor.numel();
  }
}

void sum_symmetric_over(const Processes& processes, const std::vector<Tensor>& matrices) {
  std::vector<Tensor> packed;
  for (const auto& matrix : matrices) packed.push_back(pack_symmetric(matrix));
  sum_over(processes, packed);
  for (size_t i = 0; i < matrices.size(); ++i)
    Tensor(matrices[i]).copy_(unpack_symmetric(packed[i], matrices[i].size(2)));
}

double sum_over(const Processes& processes, double value) {
  auto tensor = torch::full({1}, value, torch::kFloat64);
  processes.sum(tensor);
  return tensor.item<double>();
}

double greatest_over(const Processes& processes, double value) {
  auto all = torch::zeros({processes.size()}, torch::kFloat64);
  all[processes.rank()] = value;
  processes.sum(all);
  return all.max().item<double>();
}

void do_part(const Processes* processes, const std::function<void()>& work) {
  if (!processes) return work();
  std::string failure;
  try {
    work();
  } catch (const NumericalError& error) {
    failure = error.what();
  }
  auto lengths = torch::zeros({processes->size()}, torch::kInt64);  // of the sentences
  lengths[processes->rank()] = static_cast<int64_t>(failure.size());
  processes->sum(lengths);
  const auto failed = lengths.nonzero();
  if (failed.numel() == 0) return;
  const auto first = failed[0].item<int64_t>();
  auto text = torch::empty({lengths[first].item<int64_t>()}, torch::kUInt8);
  auto* letters = text.data_ptr<uint8_t>();
  if (processes->rank() == first) std::copy(failure.begin(), failure.end(), letters);
  processes->broadcast(text, first);
  throw NumericalError(std::string(letters, letters + text.numel()));
}

void agree(const Processes& processes, const std::vector<Tensor>& tensors) {
  for (auto tensor : tensors) {
    auto copy = tensor.contiguous();
    processes.broadcast(copy, 0);
    tensor.copy_(copy);
  }
}

bool have_own_gpus(const Processes& processes, int64_t host, torch::Device device) {
  auto places = torch::zeros({processes.size(), 2}, torch::kInt64);
  places[processes.rank()][0] = host;
  places[processes.rank()][1] = device.is_cuda() ? device.index() : -1;
  processes.sum(places);
  const auto distinct = std::get<0>(at::unique_dim(places, 0)).size(0);
  return distinct == processes.size() && (places.select(1, 1) >= 0).all().item<bool>();
}

Tensor pack_symmetric(const Tensor& matrices) {
  if (cuda::takes(matrices)) return cuda::pack_lower(matrices);
  return matrices.flatten(1).index_select(1, triangle(matrices.size(2), matrices.device()));
}

Tensor unpack_symmetric(const Tensor& packed, int64_t dimension) {
  if (cuda::takes(packed)) return cuda::unpack_lower(packed, dimension);
  auto out = torch::zeros({packed.size(0), dimension * dimension}, packed.options());
  out.index_copy_(1, triangle(dimension, packed.device()), packed);
  out = out.view({packed.size(0), dimension, dimension});
  return out + out.tril(-1).transpose(1, 2);
}

std::vector<int64_t> deal_out(const std::vector<double>& costs, int64_t processes) {
  std::vector<size_t> order(costs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return costs[a] > costs[b]; });
  std::vector<double> load(static_cast<size_t>(processes), 0.0);
  std::vector<int64_t> owner(costs.size());
  for (const auto item : order) {
    const auto least = std::min_element(load.begin(), load.end());
    owner[item] = least - load.begin();
    *least += costs[item];
  }
  return owner;
}

}  // namespace evariste
