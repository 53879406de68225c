#include "numerics.h"

#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider::eagle {

Numerics Numerics::parse(const std::string& reference) {
  if (reference.empty()) return {};
  if (reference != "0.47" && reference != "0.42") {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("reference numerics '{}' are not known", printable(reference)),
                "accepted are 0.47 and 0.42");
  }
  const bool is_old = reference == "0.42";
  return {.norms_hidden_twice = true,
          .wraps_last_position = !is_old,
          .mask_gates_successor = true,
          .ignores_labels = true,
          .ignores_attention_mask = is_old,
          .masks_padding_keys = false,
          .starts_at_random = true,
          .merges_embeddings = is_old,
          .norms_mtp_inputs = false,
          .has_parallel_heads = is_old,
          .reuses_base_decoder = false,
          .always_soft_targets = true,
          .trains_targets = is_old,
          .rounds_accuracies = is_old,
          .llama3_rope = is_old,
          .fixed_ttt_steps = is_old ? 4 : 0};
}

}  // namespace outrider::eagle
