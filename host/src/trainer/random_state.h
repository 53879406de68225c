#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "outrider/checkpoint/tensor_io.h"

namespace outrider {

/// The generators that training on `device` draws from: the CPU's, and the device's own.
/// Seeds them all.
void seed_generators(at::Device device, uint64_t seed);

/// Their states as uint8 tensors under "random.cpu" and "random.cuda".
TensorMap random_state(at::Device device);
/// Throws kIncompatibleCheckpoint if one is missing.
void set_random_state(at::Device device, const TensorMap& state);

/// Draws inside its lifetime start from `seed` and leave the generators as they were.
class RandomStateScope {
 public:
  RandomStateScope(at::Device device, uint64_t seed);
  ~RandomStateScope();
  RandomStateScope(const RandomStateScope&) = delete;
  RandomStateScope& operator=(const RandomStateScope&) = delete;

 private:
  at::Device device_;
  TensorMap state_;
};

}  // namespace outrider
