#pragma once

#include <functional>
#include <optional>
#include <string>

#include "outrider/host/trainer.h"
#include "outrider/ops/linear_input.h"
#include "trainer/optimizer.h"
#include "trainer/recorded_passes.h"

namespace outrider {

// What settings mean for the parts of a step.
AdamWOptions optimizer_options(const TrainingSettings& settings);
/// What --recompute asks for on a GPU, but for how much is kept with `auto`.
ops::Recompute recompute_asked(const TrainingSettings& settings);
/// `model` must outlive it.
Recomputation recompute_of(const TrainingSettings& settings, const CausalLM& model);
/// Nothing where passes are not recorded. `say` is told where a draft's cannot be. Throws
/// kInvalidArgument where recording is asked for elsewhere than on a GPU.
std::optional<RecordedPasses::Options> recording_of(
    const TrainingSettings& settings, at::Device device, int64_t hidden_size,
    const std::function<void(const std::string&)>& say);

}  // namespace outrider
