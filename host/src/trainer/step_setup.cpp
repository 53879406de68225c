#include "trainer/step_setup.h"

#include <ATen/core/DimVector.h>

#include <map>

#include "first_line.h"
#include "machine/device.h"
#include "outrider/error.h"
#include "outrider/text.h"
#include "trainer/step_cost.h"

namespace outrider {
namespace {

// Of a batch's states; larger ones keep a GPU busy by themselves, and what a recording keeps in
// memory is not worth it.
constexpr int64_t kMostElementsForGraphs = int64_t{1} << 25;

// Shapes come again and again.
std::function<int64_t(const TrainBatch&)> room_on_device(const TrainingSettings& settings,
                                                         const CausalLM& model) {
  const PlannedStep step{.accumulates = settings.gradient_accumulation_steps > 1,
                         .base_in_eight_bits = settings.base_precision == "fp8"};
  const auto bytes = static_cast<double>(device_memory(model.device()).total);
  return [&model, step, bytes,
          known = std::map<at::DimVector, int64_t>()](const TrainBatch& batch) mutable {
    const auto sizes = batch.input_ids.sizes();
    const auto [found, is_new] = known.try_emplace(at::DimVector(sizes));
    if (is_new) {
      auto planned = step;
      planned.shape = {.rows = sizes[0], .length = sizes[1]};
      found->second = room_for_products(model, planned, bytes);
    }
    return found->second;
  };
}

}  // namespace

AdamWOptions optimizer_options(const TrainingSettings& settings) {
  return {settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon, settings.weight_decay,
          settings.max_grad_norm};
}

ops::Recompute recompute_asked(const TrainingSettings& settings) {
  if (settings.recompute == "nothing") return ops::Recompute::kNothing;
  if (settings.recompute == "products") return ops::Recompute::kProducts;
  return ops::Recompute::kElementwise;
}

Recomputation recompute_of(const TrainingSettings& settings, const CausalLM& model) {
  if (settings.recompute != "auto") return {recompute_asked(settings)};
  if (!model.device().is_cuda()) return {};
  // What a base that is trained itself takes is not predicted.
  if (trains_base(model)) return {ops::Recompute::kProducts};
  return {recompute_asked(settings), room_on_device(settings, model)};
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
