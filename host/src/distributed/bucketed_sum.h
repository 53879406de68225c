#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <vector>

#include "distributed/communicator.h"
#include "outrider/api.h"

namespace outrider {

/// Sums a list of tensors of one type over the processes while some are still being computed: what
/// is complete travels, several tensors at a time, the last of the list first, as a backward pass
/// completes them. Which tensors exist may differ from sum to sum, not between processes.
class OUTRIDER_API BucketedSum {
 public:
  explicit BucketedSum(Communicator& processes) : processes_(processes) {}

  /// Tensor `index` of the list is complete, and not to be touched before finish().
  void ready(size_t index, const at::Tensor& tensor);
  /// Has the whole list summed, in place; undefined are those that no process has.
  void finish(const std::vector<at::Tensor>& tensors);

 private:
  using Bucket = std::vector<size_t>;  // indexes that travel together

  bool is_complete(const Bucket& bucket) const;
  void send(const Bucket& bucket);

  Communicator& processes_;
  std::vector<Bucket> buckets_;  // made of the list before; sent in order, the same everywhere
  size_t sent_ = 0;
  std::vector<at::Tensor> ready_;  // by index: complete, and not sent
  std::vector<Communicator::Wait> pending_;
};

}  // namespace outrider
