#pragma once

#include <cstdint>
#include <string>

namespace outrider::eagle {

/// Where Outrider's training arithmetic differs from ModelOpt's: the switches of
/// --reference-numerics, see docs/modes/eagle.md.
struct Numerics {
  bool norms_hidden_twice = false;      // EAGLE-3's first layer
  bool wraps_last_position = false;     // of shifted sequences, else zero; matters to mixing alone
  bool mask_gates_successor = false;    // loss_mask[t] gates the prediction of token t+1, not of t
  bool ignores_labels = false;          // without a loss_mask only attention_mask decides
  bool ignores_attention_mask = false;  // a given loss_mask stands alone; without one, all ones
  bool masks_padding_keys = true;       // in steps after the first
  bool starts_at_random = false;        // nothing is copied from the base after a conversion
  bool merges_embeddings = true;        // EAGLE-1 and EAGLE-MTP read the token embeddings
  bool norms_mtp_inputs = true;         // EAGLE-MTP
  bool has_parallel_heads = true;       // parallel_draft_step
  bool reuses_base_decoder = true;      // eagle_reuse_base_decoder
  bool always_soft_targets = false;     // eagle_self_logit_distillation=false has no effect
  bool trains_targets = false;          // an unfrozen base, by way of the targets it sets
  bool rounds_accuracies = false;       // to three decimals
  bool llama3_rope = false;             // of a draft whose config leaves the rope out
  int64_t fixed_ttt_steps = 0;          // 0: eagle_ttt_steps decides

  /// "" (Outrider's own), "0.47" or "0.42". Throws kInvalidArgument.
  static Numerics parse(const std::string& reference);
};

}  // namespace outrider::eagle
