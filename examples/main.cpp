// The installed package, used from outside: a named random stream feeds a tensor.
#include <torch/types.h>

#include <cmath>
#include <cstdio>
#include <vector>

#include <core/stream.h>

int main() {
  // The same path gives the same numbers on every machine, whatever was drawn before.
  evariste::Draws draws(evariste::Stream(0).split("example").split(0));
  std::vector<double> normals(1000);
  for (double& value : normals) value = draws.normal();

  const auto sample = torch::tensor(normals, torch::kFloat64);  // [1000]
  const double mean = sample.mean().item<double>();
  const double deviation = sample.std().item<double>();
  std::printf("1000 normal draws: mean %.4f, standard deviation %.4f\n", mean, deviation);
  return std::abs(mean) < 0.1 && std::abs(deviation - 1.0) < 0.1 ? 0 : 1;
}
