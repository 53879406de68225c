#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "outrider/api.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

struct LoadOptions {
  std::optional<at::ScalarType> dtype;  // default: as stored
  at::Device device = at::kCPU;
};

/// A base model folder, or a converted one: then its plugins are found and its drafts rebuilt before
/// tensors are loaded. Loading is strict: missing, unexpected and mis-shaped tensors are reported
/// together (kTensorMismatch).
OUTRIDER_API std::shared_ptr<CausalLM> from_pretrained(const std::filesystem::path& folder,
                                                       const LoadOptions& options = {});

/// Replaces parameters and buffers by name; every name must exist with the tensor's shape.
OUTRIDER_API void load_weights(CausalLM& model, const std::filesystem::path& file);

/// Every parameter and buffer under its checkpoint name, tied weights once.
OUTRIDER_API TensorMap checkpoint_tensors(const CausalLM& model);

struct SaveOptions {
  std::filesystem::path source;  // folder whose tokenizer and config files are copied along
  bool replace = false;          // an existing folder may be replaced
};

/// Writes a Hugging Face folder that plain transformers can load the base from, atomically.
OUTRIDER_API void save_pretrained(const CausalLM& model, const std::filesystem::path& folder,
                                  const SaveOptions& options);

}  // namespace outrider
