#include "trainer/step_setup.h"

#include "first_line.h"
#include "machine/device.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

// Of a batch's states; larger ones keep a GPU busy by themselves, and what a recording keeps in
// memory is not worth it.
constexpr int64_t kMostElementsForGraphs = int64_t{1} << 25;

// Products are computed again where they would take more than this part of a device's memory.
constexpr int64_t kShareOfKept = 20;

}  // namespace

AdamWOptions optimizer_options(const TrainingSettings& settings) {
  return {settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon, settings.weight_decay,
          settings.max_grad_norm};
}

Recomputation recompute_of(const TrainingSettings& settings, at::Device device) {
  const bool is_auto = settings.recompute == "auto";
  if (is_auto && !device.is_cuda()) return {};
  return recompute_within(settings, is_auto ? device_memory(device).total : 0);
}

Recomputation recompute_within(const TrainingSettings& settings, int64_t device_bytes) {
  const auto& asked = settings.recompute;
  if (asked == "nothing") return {};
  if (asked == "products") return {ops::Recompute::kProducts};
  Recomputation recomputation{ops::Recompute::kElementwise};
  if (asked == "auto") recomputation.most_kept = device_bytes / kShareOfKept;
  return recomputation;
}

std::optional<RecordedPasses::Options> recording_of(
    const TrainingSettings& settings, at::Device device, int64_t hidden_size,
    const std::function<void(const std::string&)>& say) {
  if (settings.cuda_graphs == "on" && !device.is_cuda()) {
    throw Error(ErrorCode::kInvalidArgument, "--cuda-graphs on needs a GPU",
                "give --device cuda, or leave --cuda-graphs out");
  }
  if (settings.cuda_graphs == "off" || !device.is_cuda()) return std::nullopt;
  RecordedPasses::Options options;
  if (settings.cuda_graphs == "auto") {
    options.most_tokens = kMostElementsForGraphs / hidden_size;
    options.on_failure = [say](const std::string& reason) {
      say("note: steps are not recorded as CUDA graphs: " + printable(first_line(reason), 300));
    };
  }
  return options;
}

}  // namespace outrider
