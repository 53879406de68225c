#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace outrider::kernels {

/// Kernels of a GPU that are launched together again and again: the host spends no time on each.
class Recording {
 public:
  Recording() = default;
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  /// Runs what `launches` launches on LibTorch's current stream of the device of `like`: the first
  /// time as it is, which loads the kernels, the second time it is recorded. It must always launch
  /// the same on the same memory, and neither allocate nor wait.
  void run(const at::Tensor& like, const std::function<void()>& launches);

 private:
  void record(const at::Tensor& like, const std::function<void()>& launches);

  void* recorded_ = nullptr;
  bool has_run_ = false;
};

}  // namespace outrider::kernels
