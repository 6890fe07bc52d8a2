// torch and Catch2 both define CHECK: torch first, its macro away, then Catch2 (2 or 3).
#pragma once

#if __has_include(<torch/types.h>)
#include <torch/types.h>
#include <torch/utils.h>
#endif
#undef CHECK

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
/// Catch2 3 gave Contains another meaning.
inline auto Contains(const std::string& part) { return ContainsSubstring(part); }
#else
#include <catch2/catch.hpp>
using Catch::Matchers::Contains;
#endif
