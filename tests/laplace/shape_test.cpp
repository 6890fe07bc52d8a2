#include "tests/catch.h"

#include "core/error.h"
#include "laplace/shape.h"

using namespace evariste;

TEST_CASE("a wrong shape is told with what was expected and what came", "[laplace]") {
  CHECK_NOTHROW(expect_shape(torch::zeros({4, 1, 28, 28}), "images", {-1, 1, 28, 28}));
  CHECK_NOTHROW(expect_shape(torch::zeros({}), "precision", {}));
  for (const auto& wrong : {torch::zeros({64, 28, 28}), torch::zeros({4, 3, 28, 28})}) {
    try {
      expect_shape(wrong, "images", {-1, 1, 28, 28});
      FAIL("a wrong shape passed");
    } catch (const UsageError& e) {
      CHECK(std::string(e.what()) ==
            "images: expected [-1, 1, 28, 28], got " + shape_text(wrong.sizes()));
    }
  }
}

TEST_CASE("numbers that are not finite are a numerical error that counts them", "[laplace]") {
  CHECK_NOTHROW(expect_finite(torch::zeros({3}), "loss"));
  try {
    expect_finite(torch::tensor({0.0, std::nan(""), 1.0, HUGE_VAL}), "loss");
    FAIL("NaN passed");
  } catch (const NumericalError& e) {
    CHECK(std::string(e.what()) == "loss: expected finite numbers, found 2 NaN or infinite of 4");
  }
}
