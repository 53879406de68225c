#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "outrider/checkpoint/metadata.h"
#include "outrider/host/checkpoint.h"
#include "outrider/json.h"

namespace outrider {

/// Whether a folder has no other record than ModelOpt's: outrider_state.json wins over it.
bool has_only_modelopt_state(const std::filesystem::path& folder);

/// A state of ModelOpt's in Outrider's terms: modes without a plugin version, which any installed
/// one that says how (ModelOptMapping) restores; it is loaded. `numerics`, else the release that
/// wrote it, decides "reference_numerics". Throws kInvalidFile for what is no such state,
/// kUnknownMode, kInvalidArgument for unknown numerics, and kIncompatibleCheckpoint for a release
/// newer than 0.47 without `numerics`.
CheckpointMetadata metadata_from_modelopt(const Json& state, const std::string& origin,
                                          const std::optional<std::string>& numerics);
CheckpointMetadata read_modelopt_state(const std::filesystem::path& folder,
                                       const std::optional<std::string>& numerics);

/// Throws kInvalidArgument where numerics were chosen for a record of another writer's.
void refuse_numerics(const std::filesystem::path& record,
                     const std::optional<std::string>& numerics);

/// `config` (a config.json) as it was before ModelOpt converted the model to these modes.
Json without_modelopt_names(Json config, const CheckpointMetadata& metadata);

/// Writes modelopt_state.pth where ModelOpt would compute the same from it, and otherwise nothing:
/// one mode that says how (ModelOptMapping), with ModelOpt's values of all extensions and no plugin
/// but the mode's own.
void write_modelopt_state(const std::filesystem::path& folder, const CheckpointMetadata& metadata);

}  // namespace outrider
