#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "outrider/api.h"
#include "outrider/kernels/device_graph.h"

namespace outrider::kernels {

/// Work that a GPU does again and again: the host spends no time on its kernels. The first time it
/// runs as it is, which loads them, the second time it is recorded, and from then on it is launched
/// as a whole. What cannot be recorded, on a CPU for one, runs as it is each time.
///
/// The work must launch the same kernels each time, on inputs of the same shapes, and change
/// nothing on the host; and it must not wait for the device: no item(), no copy from or to the
/// host. Other memory that it uses must keep its place.
class OUTRIDER_API RecordedWork {
 public:
  using Tensors = std::vector<at::Tensor>;

  RecordedWork();
  ~RecordedWork();
  RecordedWork(const RecordedWork&) = delete;
  RecordedWork& operator=(const RecordedWork&) = delete;

  /// What the work makes of the inputs, the first of which is defined. The next run may overwrite
  /// it. Throws as the work does, and kInternal for inputs of other shapes than were recorded.
  Tensors run(const Tensors& inputs, const std::function<Tensors(const Tensors&)>& work);
  /// The same for work without inputs or outputs, on the device of `like`.
  void run_on(const at::Tensor& like, const std::function<void()>& work);

  bool is_recorded() const { return graph_ != nullptr; }

 private:
  class Scope;
  friend OUTRIDER_API at::Tensor integers_on(c10::Device device,
                                             const std::vector<int64_t>& values);
  struct Constant {
    std::vector<int64_t> values;
    at::Tensor tensor;
  };

  at::Tensor constant(c10::Device device, const std::vector<int64_t>& values);
  Tensors run_as_it_is(const Tensors& inputs, const std::function<Tensors(const Tensors&)>& work);
  void record(const Tensors& inputs, const std::function<Tensors(const Tensors&)>& work);
  void take(const Tensors& inputs);

  std::unique_ptr<DeviceGraph> graph_;
  Tensors inputs_, outputs_;
  std::vector<Constant> constants_;  // in the order in which the work asks for them
  size_t asked_ = 0;
  bool has_run_ = false, is_refused_ = false;
};

/// Integers [n] on a device. Recorded work cannot copy from the host: within it these are copied
/// when it runs for the first time, and kept.
OUTRIDER_API at::Tensor integers_on(c10::Device device, const std::vector<int64_t>& values);

}  // namespace outrider::kernels
