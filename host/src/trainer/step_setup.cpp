#include "trainer/step_setup.h"

#include "outrider/text.h"

namespace outrider {
namespace {

// Of a batch's states; larger ones keep a GPU busy by themselves, and what a recording keeps in
// memory is not worth it.
constexpr int64_t kMostElementsForGraphs = int64_t{1} << 25;

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

AdamWOptions optimizer_options(const TrainingSettings& settings) {
  return {settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon, settings.weight_decay,
          settings.max_grad_norm};
}

ops::Recompute recompute_of(const TrainingSettings& settings, at::Device device) {
  if (settings.recompute == "products") return ops::Recompute::kProducts;
  const bool is_wanted =
      settings.recompute == "elementwise" || (settings.recompute == "auto" && device.is_cuda());
  return is_wanted ? ops::Recompute::kElementwise : ops::Recompute::kNothing;
}

std::optional<RecordedPasses::Options> recording_of(
    const TrainingSettings& settings, at::Device device, int64_t hidden_size,
    const std::function<void(const std::string&)>& say) {
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
