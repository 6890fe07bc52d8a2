#include "laplace/gram.h"

#include "laplace/register_tiles.h"

#include "tests/catch.h"
#include "tests/nn/layer_examples.h"

using namespace evariste;

TEST_CASE("inner products of few long rows", "[gram]") {
  for (const auto type : {torch::kFloat32, torch::kFloat64})
    for (const int64_t c : {1, 4, 10})
      for (const int64_t d : {1, 7, 40})
        for (const int64_t k : {0, 1, 15, 16, 257}) {
          CAPTURE(type, c, d, k);
          const auto a = torch::randn({c, 3, k}, type).transpose(0, 1);
          const auto b = torch::randn({3, d, k}, type);
          const auto error = inner_products(a, b) - a.matmul(b.transpose(1, 2));
          CHECK(error.abs().max().item<double>() < (type == torch::kFloat32 ? 1e-4 : 1e-12));
        }
  const auto strided = torch::randn({2, 5, 60}).slice(2, 0, 60, 3);
  CHECK(torch::allclose(inner_products(strided, strided), strided.matmul(strided.transpose(1, 2)),
                        1e-5, 1e-5));
}

TEST_CASE("the Gram matrix by tiles is the product, of any strides", "[laplace][gram]") {
  for (const int64_t d : {1, 6, 8, 9, 16, 17, 24, 25, 33, 64, 72, 128, 129, 200, 257, 520})
    for (const int64_t groups : {1, 3}) {
      const auto rows = random_tensor({groups, 40, d}, 1);
      const auto expected = rows.transpose(1, 2).matmul(rows);
      CAPTURE(d, groups);
      CHECK(torch::allclose(gram(rows), expected, 1e-12, 1e-12));
      const auto strided = rows.transpose(1, 2).contiguous().transpose(1, 2);
      CHECK(torch::allclose(gram(strided), expected, 1e-12, 1e-12));
      const auto narrow = gram(rows.to(torch::kFloat32));
      CHECK(narrow.scalar_type() == torch::kFloat64);
      CHECK(torch::equal(narrow, narrow.transpose(1, 2)));
      CHECK(torch::allclose(narrow, expected, 1e-4, 1e-4));
    }
}

TEST_CASE("a sum of Gram matrices is that of all rows, however many chunks", "[laplace][gram]") {
  for (const int64_t d : {3, 130, 300})
    for (const int64_t groups : {1, 2})
      for (const int64_t chunks : {1, 5, 16, 37}) {
        CAPTURE(d, groups, chunks);
        GramSum sum;
        CHECK(sum.is_empty());
        std::vector<Tensor> all;
        for (int64_t i = 0; i < chunks; ++i) {
          all.push_back(random_tensor({groups, 7, d}, static_cast<uint64_t>(i)));
          sum.add(all.back());
        }
        CHECK_FALSE(sum.is_empty());
        const auto rows = torch::cat(all, 1);
        CHECK(torch::allclose(sum.total(), rows.transpose(1, 2).matmul(rows), 1e-11, 1e-11));
      }
}

TEST_CASE("sums of squared products in registers are those of the products", "[laplace][gram]") {
  for (const auto type : {torch::kFloat32, torch::kFloat64})
    for (const int64_t o : {1, 8, 17, 32})
      for (const int64_t j : {1, 27, 32, 70})
        for (const int64_t t : {1, 5, 130}) {
          CAPTURE(type, o, j, t);
          const auto a = random_tensor({3, 2, t, o}, 1).to(type);
          const auto b = random_tensor({2, t, j}, 2).to(type);
          const auto expected = a.transpose(2, 3).matmul(b).square().sum(at::IntArrayRef{0, 1});
          const auto tolerance = type == torch::kFloat32 ? 1e-5 : 1e-13;
          const auto is_near = [&](const Tensor& sum) {
            return (sum - expected).abs().max().item<double>() <=
                   tolerance * expected.abs().max().item<double>();
          };
          CHECK(is_near(squared_products(a, b)));
          const auto turned = [](const Tensor& x) {
            return x.transpose(-1, -2).contiguous().transpose(-1, -2);
          };
          CHECK(is_near(squared_products(turned(a), turned(b))));
        }
}

TEST_CASE("sums in registers do not depend on the number of threads", "[laplace][gram]") {
  const auto rows = random_tensor({3000, 96}, 1).to(torch::kFloat32);
  const auto a = random_tensor({9, 4, 300, 64}, 2).to(torch::kFloat32);
  const auto b = random_tensor({4, 300, 96}, 3).to(torch::kFloat32);
  const auto threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto gram_one = gram(rows.unsqueeze(0));
  const auto squares_one = squared_products(a, b);
  at::set_num_threads(2);
  CHECK(torch::equal(gram(rows.unsqueeze(0)), gram_one));
  CHECK(torch::equal(squared_products(a, b), squares_one));
  at::set_num_threads(threads);
}
