#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "distributed/rendezvous.h"

namespace c10d {
class Backend;
class Work;
}  // namespace c10d

namespace outrider {

/// Which processes talk to each other: `size` of them from `first` on.
struct ProcessRange {
  int64_t first = 0, size = 1;
};

/// Collectives on contiguous tensors of one device among some processes, which make the same calls
/// in the same order. Throws kProcessLost where one of them is lost.
class Communicator {
 public:
  /// Of tensors on `device`: Gloo on the CPU, NCCL on a GPU. `name` is this group's alone. All
  /// must outlive it.
  Communicator(Rendezvous& rendezvous, const std::string& name, ProcessRange range,
               at::Device device);
  /// Without a word to the others, who may be waiting for no more.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }

  /// Makes a collective's results usable: waits for it, or on a GPU has the current stream wait.
  using Wait = std::function<void()>;

  /// Sums tensors of one type over the processes, in place; each has the same bits everywhere then.
  Wait begin_sum(std::vector<at::Tensor> tensors);
  /// all [size·n] becomes the parts [n] of all, by rank.
  Wait begin_gather(at::Tensor all, at::Tensor part);
  /// Part i of `out` becomes part `rank` of process i's `in`; parts are equal stretches of the
  /// first dimension.
  void exchange(at::Tensor out, at::Tensor in);

 private:
  Wait begin(const std::function<c10::intrusive_ptr<c10d::Work>()>& start);

  Rendezvous& rendezvous_;
  int64_t rank_, size_;
  c10::intrusive_ptr<c10d::Backend> backend_;
};

}  // namespace outrider
