#include "outrider/kernels/recorded_work.h"

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <exception>
#include <map>
#include <mutex>
#include <utility>

#include "outrider/error.h"

namespace outrider::kernels {
namespace {

thread_local RecordedWork* current_work = nullptr;

at::Tensor copied_to(c10::Device device, const std::vector<int64_t>& values) {
  return at::tensor(values, at::kLong).to(device);
}

const c10::Stream& side_stream(c10::Device device) {
  static auto& streams = *new std::map<c10::DeviceIndex, c10::Stream>;
  const auto found = streams.find(device.index());
  if (found != streams.end()) return found->second;
  const c10::impl::VirtualGuardImpl guard(device.type());
  return streams.emplace(device.index(), guard.getStreamFromGlobalPool(device)).first->second;
}

}  // namespace

// The one whose work this thread runs.
class RecordedWork::Scope {
 public:
  explicit Scope(RecordedWork& work) : outer_(std::exchange(current_work, &work)) {
    work.asked_ = 0;
  }
  ~Scope() { current_work = outer_; }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  RecordedWork* outer_;
};

RecordedWork::RecordedWork() = default;
RecordedWork::~RecordedWork() = default;

RecordedWork::Tensors RecordedWork::run_as_it_is(
    const Tensors& inputs, const std::function<Tensors(const Tensors&)>& work) {
  const Scope scope(*this);
  return work(inputs);
}

// Beside the default stream, which cannot be recorded: always on the same one, since LibTorch keeps
// memory for products by stream. So one recording at a time.
void RecordedWork::record(const Tensors& inputs,
                          const std::function<Tensors(const Tensors&)>& work) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  for (const auto& input : inputs) {
    inputs_.push_back(input.defined() ? input.clone(at::MemoryFormat::Contiguous) : input);
  }
  auto graph = make_device_graph();
  const c10::StreamGuard guard(side_stream(inputs.front().device()));
  graph->record([&] { outputs_ = run_as_it_is(inputs_, work); });
  graph_ = std::move(graph);
}

void RecordedWork::take(const Tensors& inputs) {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const auto& from = inputs.at(i);
    if (from.defined() != inputs_[i].defined() ||
        (from.defined() && from.sizes() != inputs_[i].sizes())) {
      throw Error(ErrorCode::kInternal, "RecordedWork: an input of another shape");
    }
    if (from.defined()) inputs_[i].copy_(from, /*non_blocking=*/true);
  }
}

RecordedWork::Tensors RecordedWork::run(const Tensors& inputs,
                                        const std::function<Tensors(const Tensors&)>& work) {
  if (is_refused_ || !inputs.front().is_cuda() || !std::exchange(has_run_, true)) {
    return run_as_it_is(inputs, work);
  }
  if (!graph_) {
    try {
      record(inputs, work);
    } catch (const std::exception&) {
      is_refused_ = true;
      inputs_.clear();
      outputs_.clear();
      return run_as_it_is(inputs, work);
    }
  }
  take(inputs);
  graph_->launch();
  return outputs_;
}

void RecordedWork::run_on(const at::Tensor& like, const std::function<void()>& work) {
  run({like.slice(0, 0, 0)}, [&](const Tensors&) {
    work();
    return Tensors();
  });
}

at::Tensor RecordedWork::constant(c10::Device device, const std::vector<int64_t>& values) {
  const size_t number = asked_++;
  if (number == constants_.size()) constants_.push_back({values, copied_to(device, values)});
  auto& kept = constants_.at(number);
  if (kept.values != values || kept.tensor.device() != device) {
    kept = {values, copied_to(device, values)};
  }
  return kept.tensor;
}

at::Tensor integers_on(c10::Device device, const std::vector<int64_t>& values) {
  return current_work ? current_work->constant(device, values) : copied_to(device, values);
}

}  // namespace outrider::kernels
