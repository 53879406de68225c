#include "bench/train_bench.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "bench/timing.h"
#include "data/batches.h"
#include "machine/device.h"
#include "trainer/base_precision.h"
#include "trainer/recorded_passes.h"
#include "trainer/run_setup.h"
#include "trainer/step_cost.h"
#include "trainer/step_setup.h"

namespace outrider {
namespace {

constexpr int64_t kBatches = 4;
constexpr double kGiB = 1 << 30;

// Operations per second of a square matrix product, at its best.
double product_rate(at::Device device, at::ScalarType type) {
  const int64_t size = device.is_cpu() ? 1024 : 8192;
  const int count = device.is_cpu() ? 4 : 20;
  const auto options = at::TensorOptions().device(device).dtype(type);
  const auto a = at::randn({size, size}, options), b = at::randn({size, size}, options);
  auto c = at::mm(a, b);
  const double seconds = std::ranges::min(repeated_seconds_of(device, [&] {
    for (int i = 0; i < count; ++i) at::mm_out(c, a, b);
  }));
  return 2.0 * static_cast<double>(size * size * size) * count / seconds;
}

/// The training step of a workload, again and again.
class BenchedStep {
 public:
  BenchedStep(const Workload& workload, const TrainBenchOptions& options)
      : options_(options),
        model_(make_workload_model(
            workload, at::TensorOptions().device(options.device).dtype(options.dtype))) {
    if (options.settings.base_precision == "fp8") multiply_in_eight_bits(*model_);
    draw_batches(workload);
    training_mode_.emplace(*model_);
    training_.emplace(*model_, optimizer_options(options.settings), GradientReduction{},
                      recompute_of(options.settings, *model_));
    if (auto how = recording_of(options.settings, options.device, model_->config().hidden_size,
                                options.on_note)) {
      recorded_.emplace(*training_, *std::move(how));
    }
  }

  const CausalLM& model() const { return *model_; }

  void learn() {
    const auto input = forward_input(batches_[next_++ % kBatches], options_.device);
    recorded_ ? recorded_->learn(input, 1.0, true, true) : training_->learn(input, 1.0, true);
  }
  void update() { training_->update(options_.settings.learning_rate); }

  void run_base() {
    const at::NoGradGuard no_grad;
    const auto input = forward_input(batches_.front(), options_.device);
    const auto base = model_->run_base(
        {.input_ids = input.batch.input_ids, .request = model_->hidden_states_needed()});
  }

 private:
  void draw_batches(const Workload& workload) {
    for (int64_t i = 0; i < kBatches; ++i) {
      TrainBatch batch;
      batch.input_ids = at::randint(model_->config().vocab_size, {workload.rows, workload.length},
                                    at::TensorOptions().dtype(at::kLong));
      batch.attention_mask = batch.loss_mask = at::ones_like(batch.input_ids);
      batches_.push_back(batch);
    }
  }

  const TrainBenchOptions& options_;
  std::shared_ptr<CausalLM> model_;
  std::vector<TrainBatch> batches_;
  std::optional<DraftTrainingScope> training_mode_;
  std::optional<TrainingStep> training_;
  std::optional<RecordedPasses> recorded_;
  size_t next_ = 0;
};

Json rates(const Workload& workload, const std::vector<double>& seconds) {
  const auto rate = [&](double s) { return static_cast<double>(workload.tokens()) / s; };
  return {{"median", rate(median(seconds))},
          {"least", rate(std::ranges::max(seconds))},
          {"most", rate(std::ranges::min(seconds))}};
}

}  // namespace

Json bench_training(const Workload& workload, const TrainBenchOptions& options) {
  const auto device = options.device;
  const double rate = product_rate(device, options.dtype);
  std::optional<SideStream> stream;
  if (device.is_cuda()) stream.emplace(device);
  BenchedStep step(workload, options);
  std::vector<double> seconds;
  int64_t used = 0;
  for (int64_t i = -options.warmup_steps; i < options.steps; ++i) {
    const double one = seconds_of(device, [&] {
      step.learn();
      step.update();
    });
    if (i >= 0) seconds.push_back(one);
    if (!device.is_cpu()) used = std::max(used, device_memory(device).used);
  }
  const double whole = median(seconds);
  step.learn();
  const double optimizer = seconds_of(device, [&] { step.update(); });
  const double base = median(repeated_seconds_of(device, [&] { step.run_base(); }));
  const auto operations =
      operations_of(step.model(), {.rows = workload.rows, .length = workload.length});
  const double limit = (operations.base + operations.draft) / rate;
  Json result = {{"workload", workload.name},
                 {"device", device.str()},
                 {"dtype", c10::toString(options.dtype)},
                 {"settings", training_schema().dump(options.settings)},
                 {"tokens_per_second", rates(workload, seconds)},
                 {"step_seconds", whole},
                 {"share_of_time",
                  {{"base", base / whole},
                   {"optimizer", optimizer / whole},
                   {"draft", 1 - (base + optimizer) / whole}}},
                 {"product_tflops", rate / 1e12},
                 {"limit_tokens_per_second", static_cast<double>(workload.tokens()) / limit},
                 {"share_of_limit", limit / whole}};
  if (!device.is_cpu()) {
    result["device_memory_gib"] = static_cast<double>(used) / kGiB;
    result["allocator_peak_gib"] = device_peak_memory_mib(device) / 1024;
  }
  return result;
}

}  // namespace outrider
