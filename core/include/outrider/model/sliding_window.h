#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "outrider/api.h"
#include "outrider/model/model_config.h"

namespace outrider {

/// `sliding_window` of families that use it in every layer: query i sees the keys j with
/// i - j < window. Nothing where it is null; `if_absent` where the config has no such key.
/// Throws kInvalidConfig for no positive integer, or if `use_sliding_window` or `layer_types` say
/// otherwise.
OUTRIDER_API std::optional<int64_t> window_of_all_layers(const ModelConfig& config,
                                                         std::optional<int64_t> if_absent);

/// One window per layer, as the Qwen families choose them: none unless `use_sliding_window`; then
/// `sliding_window` (4096 where absent) in the layers whose entry in `layer_types` is
/// "sliding_attention" or, without such a list, in those from `max_window_layers` (28) on.
/// Throws kInvalidConfig for mistyped or contradictory keys, kUnsupported for other layer types.
OUTRIDER_API std::vector<std::optional<int64_t>> windows_by_layer(const ModelConfig& config);

}  // namespace outrider
