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
  return {.norms_hidden_twice = true,
          .mask_gates_successor = true,
          .ignores_labels = true,
          .ignores_attention_mask = reference == "0.42",
          .masks_padding_keys = false,
          .starts_at_random = true};
}

}  // namespace outrider::eagle
