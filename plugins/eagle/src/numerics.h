#pragma once

#include <string>

namespace outrider::eagle {

/// Where Outrider's training arithmetic differs from ModelOpt's: the switches of
/// --reference-numerics, see docs/modes/eagle.md.
struct Numerics {
  bool norms_hidden_twice = false;      // EAGLE-3's first layer
  bool mask_gates_successor = false;    // loss_mask[t] gates the prediction of token t+1, not of t
  bool ignores_labels = false;          // without a loss_mask only attention_mask decides
  bool ignores_attention_mask = false;  // a given loss_mask stands alone; without one, all ones
  bool masks_padding_keys = true;       // in steps after the first
  bool starts_at_random = false;        // initial values owe nothing to the base's

  /// "" (Outrider's own), "0.47" or "0.42". Throws kInvalidArgument.
  static Numerics parse(const std::string& reference);
};

}  // namespace outrider::eagle
