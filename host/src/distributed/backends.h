#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <chrono>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace outrider {

/// This process among those that talk to each other, and where they find out how.
struct BackendPlace {
  c10::intrusive_ptr<c10d::Store> store;
  int rank = 0, size = 1;
  std::chrono::milliseconds timeout{0};
};

/// Collectives on the CPU's tensors.
c10::intrusive_ptr<c10d::Backend> gloo_backend(const BackendPlace& place);

/// Collectives on a GPU's tensors, from liboutrider_nccl.so, which is opened for it: nothing else
/// here needs LibTorch's CUDA libraries. Throws kUnsupported where this build has none.
c10::intrusive_ptr<c10d::Backend> nccl_backend(const BackendPlace& place);

}  // namespace outrider
