#include "trainer/recorded_passes.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "data/batches.h"
#include "machine/device.h"

namespace outrider {
namespace {

// A form that comes rarely is not worth its recording; kernels choose their ways in the first.
constexpr int64_t kSeenBefore = 3;
// Each takes some of the host's and the driver's memory.
constexpr int64_t kMostRecordings = 24;

c10::Stream stream_beside_default(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
}

/// Passes of one form launch the same kernels on the same shapes.
std::string form_of(TrainBatch& batch, double share) {
  std::string form = fmt::format("{} {} {}", share, batch.most_targets.value_or(0),
                                 batch.documents ? batch.documents->longest : 0);
  for (const auto* tensor : tensors_of(batch)) {
    form += tensor->defined() ? fmt::format(" [{}]", fmt::join(tensor->sizes(), ",")) : " -";
  }
  return form;
}

}  // namespace

SideStream::SideStream(at::Device device) : device_(device), guard_(stream_beside_default(device)) {
  wait_for(device_);
  // What other streams have freed is of no use to this one.
  c10::getDeviceAllocator(device.type())->emptyCache();
}

SideStream::~SideStream() { wait_for(device_); }

RecordedPasses::RecordedPasses(TrainingStep& training, Options options)
    : training_(training), options_(std::move(options)) {}

ForwardOutput RecordedPasses::learn(ForwardInput input, double share, bool is_last, bool is_only) {
  auto& batch = input.batch;
  const bool is_worth_it = options_.most_tokens.value_or(INT64_MAX) >= batch.input_ids.numel();
  if (!is_worth_it || input.base_outputs) return training_.learn(std::move(input), share, is_last);
  auto& recording = recordings_[form_of(batch, share)];
  if (!recording.graph && recording.seen++ >= kSeenBefore && recorded_ < kMostRecordings) {
    record(recording, input, share);
  }
  if (!recording.graph) return training_.learn(std::move(input), share, is_last);
  const auto from = tensors_of(batch), to = tensors_of(recording.batch);
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i]->defined()) to[i]->copy_(*from[i], /*non_blocking=*/true);
  }
  recording.graph->launch();
  training_.add(recording.pass, /*keeps=*/!is_only);
  return recording.pass.output;
}

void RecordedPasses::record(Recording& recording, const ForwardInput& input, double share) {
  auto own = input;
  for (auto* tensor : tensors_of(own.batch)) {
    if (tensor->defined()) *tensor = tensor->clone();
  }
  try {
    auto graph = make_device_graph(first_);
    c10::getDeviceAllocator(own.batch.input_ids.device().type())->emptyCache();
    graph->record([&] { recording.pass = training_.pass(own, share, gradients_); });
    gradients_ = recording.pass.gradients;
    recording.batch = own.batch;
    recording.graph = std::move(graph);
    if (!first_) first_ = recording.graph.get();
    ++recorded_;
  } catch (const std::exception& e) {
    if (!options_.on_failure) throw;
    give_up(e.what());
  }
}

void RecordedPasses::give_up(const std::string& reason) {
  recorded_ = kMostRecordings;
  training_.forget();
  options_.on_failure(reason);
}

}  // namespace outrider
