#pragma once

#include "outrider/json.h"

namespace outrider::testing {

/// config.json of the small base that the suites of drafts share.
inline Json small_base(int64_t vocab_size, int64_t hidden_size, int64_t layers) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"vocab_size", vocab_size},
          {"hidden_size", hidden_size},
          {"intermediate_size", 12},
          {"num_hidden_layers", layers},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 4}};
}

}  // namespace outrider::testing
