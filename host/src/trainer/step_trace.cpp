#include "trainer/step_trace.h"

#include <ATen/Context.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <set>
#include <utility>

namespace outrider {
namespace {

namespace profiler = torch::autograd::profiler;
using Activity = torch::profiler::impl::ActivityType;

constexpr int64_t kWarmUp = 3;

void start() {
  const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  std::set<Activity> activities = {Activity::CPU};
  if (at::hasCUDA()) activities.insert(Activity::CUDA);
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
}

}  // namespace

void StepTrace::before_step() {
  const int64_t step = seen_++;
  if (step == kWarmUp + steps_) finish();
  if (steps_ == 0 || step != kWarmUp) return;
  start();
  is_recording_ = true;
}

void StepTrace::finish() {
  if (std::exchange(is_recording_, false)) profiler::disableProfiler()->save(file_.string());
}

StepTrace::~StepTrace() {
  if (is_recording_) profiler::disableProfiler();
}

}  // namespace outrider
