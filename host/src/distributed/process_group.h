#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

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

  int64_t rank() const { return place_.rank; }
  int64_t size() const { return place_.world_size; }
  bool is_first() const { return rank() == 0; }

  /// Sums tensors of the CPU over the processes, in place; each has the same bits everywhere then.
  void sum_in_place(const std::vector<at::Tensor>& tensors);
  at::Tensor sum(const at::Tensor& tensor);
  bool any(bool value);
  double of_first(double value);

  /// What each process says, by rank. However long one takes to say it, the others wait while it
  /// lives.
  std::vector<std::string> gather(const std::string& text);
  /// What `work` returns in the first process, which alone does it; the others wait. An Error in it
  /// is thrown everywhere.
  std::string from_first(const std::function<std::string()>& work);

  /// Returns when all processes are done with each other.
  void leave() { any(false); }
  /// Tells the others why this process ends.
  void report_failure(const std::string& reason) noexcept;

 private:
  class Connection;

  ProcessPlace place_;
  std::unique_ptr<Connection> connection_;
  int64_t round_ = 0;  // of what goes through the store
};

}  // namespace outrider
