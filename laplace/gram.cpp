#include "laplace/gram.h"

#include <algorithm>

namespace evariste {

Tensor gram(const Tensor& rows) {
  constexpr int64_t kLeast = 64;  // narrower tiles waste more in the product than they save
  const auto groups = rows.size(0), d = rows.size(2);
  const auto columns = rows.transpose(1, 2);
  const auto tile = std::max(kLeast, (d / 4 + kLeast - 1) / kLeast * kLeast);
  if (groups > 1 || d <= 2 * kLeast) return columns.matmul(rows).to(torch::kFloat64);
  auto out = torch::empty({d, d}, rows.options().dtype(torch::kFloat64));
  for (int64_t begin = 0; begin < d; begin += tile) {
    const auto count = std::min(tile, d - begin);
    const auto part = columns[0].narrow(0, begin, count).mm(rows[0].narrow(1, 0, begin + count));
    out.narrow(0, begin, count).narrow(1, 0, begin + count).copy_(part);
    if (begin > 0)
      out.narrow(0, 0, begin).narrow(1, begin, count).copy_(part.narrow(1, 0, begin).t());
  }
  return out.unsqueeze(0);
}

}  // namespace evariste
