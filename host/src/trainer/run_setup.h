#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "outrider/host/base_reference.h"
#include "outrider/host/trainer.h"
#include "trainer/training_state.h"

namespace outrider {

/// The reference that checkpoints of drafts alone hold; reads the whole base once. Throws
/// kInvalidArgument where the base itself is trained.
BaseReference base_to_refer_to(const TrainOptions& options, bool trains_base);

/// What a resumed run must share with the run it continues.
Json fixed_options(const TrainOptions& options, int64_t total_steps, const CausalLM& model);

/// What decides whether a resumed run gives the same bits.
Json environment(const CausalLM& model);

/// Throws kInvalidArgument naming each difference.
void require_same_options(const Json& now, const Json& before, const std::filesystem::path& origin);

/// Loads all tensors of a checkpoint folder into the model.
void restore_weights(CausalLM& model, const std::filesystem::path& checkpoint);

/// The most memory this process ever had in use.
double peak_memory_mib();
/// The most that LibTorch ever held of a GPU's memory for this process; not of the CPU's.
double device_peak_memory_mib(at::Device device);

}  // namespace outrider
