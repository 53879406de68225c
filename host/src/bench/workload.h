#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/json.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// A training step whose speed is compared between programs: a base of a known shape, a draft as
/// wide, rows of equal length without padding, all tokens trained on.
struct Workload {
  std::string name, base;       // "8b-k3-2048x8", "8b"
  int64_t steps, length, rows;  // of training-time test; tokens; rows of a batch
  int64_t draft_vocabulary;     // tokens that the draft knows

  int64_t tokens() const { return length * rows; }
};

/// BASE-kSTEPS-LENGTHxROWS. Throws kInvalidArgument, naming the bases.
OUTRIDER_API Workload workload_of(const std::string& name);
OUTRIDER_API std::vector<std::string> workload_bases();

/// Decoding whose speed is compared: prompts of equal length on a base of a known shape.
struct DecodeWorkload {
  std::string name, base;  // "1b-128x1", "1b"
  int64_t length, rows;    // tokens of a prompt; sequences that are decoded together
};

/// BASE-LENGTHxROWS. Throws kInvalidArgument, naming the bases.
OUTRIDER_API DecodeWorkload decode_workload_of(const std::string& name);

/// The base with random weights, and the draft attached; made on the device, from a fixed seed. On
/// the meta device without values and memory.
OUTRIDER_API std::shared_ptr<CausalLM> make_workload_model(const Workload& workload,
                                                           at::TensorOptions options);

/// The same for decoding, its draft with as many steps as by default.
OUTRIDER_API std::shared_ptr<CausalLM> make_workload_model(const DecodeWorkload& workload,
                                                           at::TensorOptions options);

}  // namespace outrider
