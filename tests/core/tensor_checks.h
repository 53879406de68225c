#pragma once

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>

#include "outrider/error.h"

namespace outrider::testing {

/// Standard normal values that depend on nothing but the seed.
inline at::Tensor random(at::IntArrayRef sizes, uint64_t seed, at::ScalarType type = at::kDouble) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(sizes, generator, at::kDouble).to(type);
}

/// Token ids in [0, vocabulary), of the seed alone.
inline at::Tensor random_ids(at::IntArrayRef sizes, int64_t vocabulary, uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randint(0, vocabulary, sizes, generator, at::kLong);
}

/// True with the given probability, of the seed alone.
inline at::Tensor random_mask(at::IntArrayRef sizes, double probability, uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::rand(sizes, generator, at::kDouble).lt(probability);
}

/// The largest |a - b|; infinite where the shapes differ, NaN where one is.
inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined() || a.sizes() != b.sizes()) {
    return std::numeric_limits<double>::infinity();
  }
  if (a.numel() == 0) return 0.0;
  return (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
}

/// The message and hint of the error of this code that `action` ends in.
inline std::string failure(ErrorCode code, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string text = std::string(error.what()) + " | " + error.hint();
    CHECK_MESSAGE(error_code_name(error.code()) == error_code_name(code), text);
    return text;
  }
  FAIL_CHECK("nothing was thrown");
  return {};
}

}  // namespace outrider::testing

#define CHECK_CLOSE(actual, expected, tolerance) \
  CHECK(outrider::testing::largest_difference(actual, expected) <= (tolerance))

#define CHECK_CONTAINS(text, part) \
  CHECK_MESSAGE(std::string(text).find(part) != std::string::npos, text)
