#pragma once

#include <cstdint>
#include <optional>

#include "outrider/host/trainer.h"
#include "outrider/host/training_data.h"

namespace outrider {

/// Hash of the description of token shards, which names each shard's own hash.
std::string data_sha256(const std::filesystem::path& shards);

/// What is written down about a run before its first step: {"written_by", "fixed_options",
/// "options", "model", "data", "eval_data" (null without), "starts" (none yet), "summary" (null
/// until the run is finished)}.
Json describe_run(const TrainOptions& options, Json fixed_options, const CausalLM& model,
                  const TrainingData& data, const std::optional<TrainingData>& eval_data);

/// One entry of "starts": when, with which command and on which machine the run went on from
/// `step`.
Json describe_start(const TrainOptions& options, int64_t step, const CausalLM& model);

}  // namespace outrider
