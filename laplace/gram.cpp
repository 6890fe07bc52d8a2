#include "laplace/gram.h"

#include <algorithm>

namespace evariste {

namespace {

constexpr int64_t kLeast = 64;  // narrower tiles waste more in the product than they save
constexpr int64_t kChunks = 16;

bool is_worth_tiles(const Tensor& rows) { return rows.size(0) == 1 && rows.size(2) > 2 * kLeast; }

/// Calls tile(begin, count) for the rows of tiles of a [d, d] matrix: columns 0 ... begin + count.
template <class Tile>
void for_each_tile(int64_t d, const Tile& tile) {
  const auto size = std::max(kLeast, (d / 4 + kLeast - 1) / kLeast * kLeast);
  for (int64_t begin = 0; begin < d; begin += size) tile(begin, std::min(size, d - begin));
}

void mirror(Tensor& lower) {
  for_each_tile(lower.size(0), [&](int64_t begin, int64_t count) {
    if (begin > 0)
      lower.narrow(0, 0, begin)
          .narrow(1, begin, count)
          .copy_(lower.narrow(0, begin, count).narrow(1, 0, begin).t());
  });
}

}  // namespace

Tensor gram(const Tensor& rows) {
  GramSum sum;
  sum.add(rows);
  return sum.total();
}

void GramSum::add(const Tensor& rows) {
  if (!is_worth_tiles(rows)) {
    const auto product = rows.transpose(1, 2).matmul(rows).to(torch::kFloat64);
    sum_ = sum_.defined() ? sum_.add_(product) : product;
    return;
  }
  tiled_ = true;
  const auto d = rows.size(2);
  const auto columns = rows[0].t();
  const bool first = !part_.defined();
  if (first) part_ = torch::empty({d, d}, rows.options());
  for_each_tile(d, [&](int64_t begin, int64_t count) {
    auto target = part_.narrow(0, begin, count).narrow(1, 0, begin + count);
    target.addmm_(columns.narrow(0, begin, count), rows[0].narrow(1, 0, begin + count),
                  first ? 0 : 1);
  });
  if (++added_ == kChunks) flush();
}

void GramSum::flush() {
  if (!part_.defined()) return;
  const bool first = !sum_.defined();
  if (first)
    sum_ = torch::empty({1, part_.size(0), part_.size(0)}, part_.options().dtype(torch::kFloat64));
  for_each_tile(part_.size(0), [&](int64_t begin, int64_t count) {
    const auto lower = [&](const Tensor& matrix) {
      return matrix.narrow(0, begin, count).narrow(1, 0, begin + count);
    };
    auto target = lower(sum_[0]);
    if (first)
      target.copy_(lower(part_));
    else
      target.add_(lower(part_));
  });
  part_ = Tensor();
  added_ = 0;
}

Tensor GramSum::total() {
  flush();
  if (tiled_ && sum_.defined()) {
    auto matrix = sum_[0];
    mirror(matrix);
  }
  return sum_;
}

}  // namespace evariste
