#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "distributed/process_place.h"
#include "outrider/api.h"

namespace outrider {

/// The processes that train together. Each must make the same calls in the same order. Everything
/// throws kProcessLost, within a minute, where another process has ended or does not answer.
class OUTRIDER_API ProcessGroup {
 public:
  /// Meets the others.
  explicit ProcessGroup(const ProcessPlace& place);
  ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int64_t rank() const { return rendezvous_->place().rank; }
  int64_t size() const { return rendezvous_->place().world_size; }
  bool is_first() const { return rank() == 0; }

  /// What computes: tensors there can be summed from here on. Every process has a device of its
  /// own.
  void use_device(at::Device device);
  /// Of all processes, for tensors on `device`, the CPU or the one of use_device().
  Communicator& tensors_on(at::Device device);
  /// Of some of them, for tensors on the device of use_device(); `name` tells it from others.
  std::unique_ptr<Communicator> subgroup(const std::string& name, ProcessRange range);

  /// Sums tensors of one device over the processes, in place.
  void sum_in_place(std::vector<at::Tensor> tensors);
  at::Tensor sum(const at::Tensor& tensor);
  bool any(bool value);
  double of_first(double value);

  /// What each process says, by rank. However long one takes to say it, the others wait while it
  /// lives.
  std::vector<std::string> gather(const std::string& text);
  /// What `work` returns in the first process, which alone does it; the others wait. An Error in it
  /// is thrown everywhere.
  std::string from_first(const std::function<std::string()>& work);

  /// Throws where a process is known to be lost: what was computed together since is worth nothing.
  void require_all() {
    rendezvous_->guarded([] {});
  }
  /// Returns when all processes are done with each other.
  void leave();
  /// Tells the others why this process ends.
  void report_failure(const std::string& reason) noexcept;

 private:
  std::unique_ptr<Rendezvous> rendezvous_;
  std::unique_ptr<Communicator> control_;  // on the CPU
  std::unique_ptr<Communicator> tensors_;  // null where that computes too
  at::Device device_ = at::kCPU;
  int64_t round_ = 0;  // of what goes through the store
};

}  // namespace outrider
