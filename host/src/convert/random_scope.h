#pragma once

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace outrider {

/// While it lives, random values on the CPU come from a generator of this seed; then the process's
/// is as it was.
class RandomScope {
 public:
  explicit RandomScope(uint64_t seed)
      : generator_(at::globalContext().defaultGenerator(at::kCPU)), state_(generator_.get_state()) {
    generator_.set_current_seed(seed);
  }
  ~RandomScope() { generator_.set_state(state_); }
  RandomScope(const RandomScope&) = delete;
  RandomScope& operator=(const RandomScope&) = delete;

 private:
  at::Generator generator_;
  at::Tensor state_;
};

}  // namespace outrider
