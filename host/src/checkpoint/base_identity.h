#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "outrider/checkpoint/metadata.h"
#include "outrider/host/base_reference.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// In outrider_state.json's base_model: CausalLM::weights_sha256(), and where the folder holds
/// drafts alone a BaseReference.
constexpr const char* kWeightsKey = "weights_sha256";
constexpr const char* kReferenceKey = "reference";

/// What outrider_state.json says of the base.
Json base_identity(const CausalLM& model);

/// Throws kIncompatibleCheckpoint, naming all differences, unless `model` is the recorded base.
void check_base(const CausalLM& model, const Json& recorded, const std::filesystem::path& origin,
                const std::string& hint);

/// The recorded reference to a base; nothing where `folder` holds its base or is not converted.
std::optional<BaseReference> recorded_reference(const CheckpointMetadata& metadata,
                                                const std::filesystem::path& folder);

/// "KEY is 4 HERE, 5 THERE" for each key of a base's sizes that `recorded` has otherwise.
std::vector<std::string> size_differences(const ModelConfig& base, const Json& recorded,
                                          const std::string& here, const std::string& there);

}  // namespace outrider
