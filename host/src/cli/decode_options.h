#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/common.h"
#include "cli/model_options.h"
#include "generate/session.h"
#include "outrider/decode/decoder.h"

namespace outrider::cli {

/// How a verb decodes.
struct DecodeArguments {
  LoadOptions load;
  ModelOptions model;
  std::optional<DrafterKind> drafter;  // default: the model's draft, where it has one
  bool no_draft = false;
  DraftSettings draft;
  int64_t batch_size = 1;
  decode::DecodeOptions decode;

  DrafterKind drafter_for(const CausalLM& model) const;
};

/// --max-new-tokens, --temperature and what else decides which token is chosen; --draft-shape and
/// what else decides what is drafted; --batch-size, --device, --dtype, --base.
void add_decode_options(CLI::App& verb, DecodeArguments& arguments);
/// The same for what the base would write: without --temperature, of which the verb has its own
/// option, and --acceptance.
void add_base_decode_options(CLI::App& verb, DecodeArguments& arguments);
/// --drafter and --no-draft.
void add_drafter_options(CLI::App& verb, DecodeArguments& arguments);

/// A model for decoding: what a CPU computes in float32 is read as it is stored, since reading
/// weights is what limits decoding.
std::shared_ptr<CausalLM> load_to_decode(const std::filesystem::path& folder,
                                         const DecodeArguments& arguments);

}  // namespace outrider::cli
