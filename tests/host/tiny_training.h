#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "outrider/error.h"
#include "outrider/model/causal_lm.h"
#include "outrider/sdk/testing.h"

namespace outrider::testing {

inline constexpr int64_t kTinyVocabulary = 16;

/// The message and hint of the error of this code that `action` ends in.
std::string failure(ErrorCode code, const std::function<void()>& action);

/// A one-layer Llama with a draft of two steps that draws random numbers in its loss. Always the
/// same weights.
std::shared_ptr<CausalLM> tiny_model();

/// Shards of `count` conversations of 5 to 12 tokens, the last two thirds of each trained on.
void write_tiny_shards(const std::filesystem::path& folder, int64_t count);

/// Calls `action` in the tiny draft's `call`-th loss (from 1).
void act_in_tiny_loss(CausalLM& model, int64_t call, std::function<void()> action);

/// Makes the tiny draft's losses infinite from its `call`-th loss on (from 1).
void spoil_tiny_losses_from(CausalLM& model, int64_t call);

}  // namespace outrider::testing

// `text` is made once, before doctest looks at anything: a check within a check waits for itself.
#define CHECK_CONTAINS(text, part)                                   \
  do {                                                               \
    const std::string checked = (text);                              \
    CHECK_MESSAGE(checked.find(part) != std::string::npos, checked); \
  } while (false)
