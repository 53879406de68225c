#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/decode/decoder.h"
#include "outrider/model/causal_lm.h"

namespace outrider {

/// Has linear layers of drafts hold their weights in `type` where that loses nothing: they are
/// widened as they are used.
OUTRIDER_API void hold_drafts_in(CausalLM& model, at::ScalarType type);

/// The tokens that end an answer: `eos_token_id` of generation_config.json, or where there is no
/// such file of config.json. Throws kInvalidFile unless it is a token, a list of them, or absent.
OUTRIDER_API std::vector<int64_t> stop_tokens(const std::filesystem::path& folder);

/// What proposes tokens.
enum class DrafterKind { kNone, kModel, kPromptLookup };

/// A decoder of the model with a drafter of this kind, the model's being its first attached draft.
/// Throws kNotConverted where it has none.
OUTRIDER_API decode::Decoder decoder_of(CausalLM& model, DrafterKind drafter);

/// The same with any of its drafts. Throws kUnsupported for one that cannot propose tokens.
OUTRIDER_API decode::Decoder decoder_with(CausalLM& model, const std::shared_ptr<Draft>& draft);

/// How many tokens are drafted, and in which form.
enum class DraftShape { kChain, kStaticTree, kDynamicTree };

/// "chain", "static-tree", "dynamic-tree"
OUTRIDER_API const std::map<std::string, DraftShape>& draft_shapes();
OUTRIDER_API std::string name_of(DraftShape shape);

struct DraftSettings {
  DraftShape shape = DraftShape::kChain;
  int64_t tokens = 0, depth = 4, width = 4;  // tokens 0: 3 of a chain, 16 of a tree
};

/// The settings as a request, and the form that a static tree's refers to.
class OUTRIDER_API DraftPlan {
 public:
  /// Throws kInvalidArgument for numbers below one.
  explicit DraftPlan(const DraftSettings& settings);
  DraftPlan(const DraftPlan&) = delete;
  DraftPlan& operator=(const DraftPlan&) = delete;

  const DraftRequest& request() const { return request_; }

 private:
  TreeForm form_;
  DraftRequest request_;
};

}  // namespace outrider
