#include "generate/session.h"

#include <fmt/format.h>

#include <algorithm>

#include "outrider/decode/draft_tree.h"
#include "outrider/decode/prompt_lookup.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/nn/linear.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kChainTokens = 3, kTreeTokens = 16;

std::vector<int64_t> token_list(const Json& value, const std::string& where) {
  if (value.is_null()) return {};
  const auto list = value.is_array() ? value : Json::array({value});
  const bool fits = std::all_of(list.begin(), list.end(),
                                [](const Json& token) { return token.is_number_integer(); });
  if (fits) return list.get<std::vector<int64_t>>();
  throw Error(ErrorCode::kInvalidFile, where + ": 'eos_token_id' is no token or list of tokens",
              "an integer, a list of integers, or null");
}

DraftRequest tree_request(const DraftSettings& settings, int64_t tokens, const TreeForm* form) {
  return {.max_tokens = tokens, .depth = settings.depth, .width = settings.width, .form = form};
}

}  // namespace

void hold_drafts_in(CausalLM& model, at::ScalarType type) {
  for (const auto& attached : model.speculative_state()) {
    attached.draft->apply([type](torch::nn::Module& module) {
      auto* linear = module.as<nn::Linear>();
      if (!linear) return;
      const auto held = linear->weight.to(type);
      if (held.to(linear->weight.scalar_type()).equal(linear->weight)) {
        linear->weight.set_data(held);
      }
    });
  }
}

std::vector<int64_t> stop_tokens(const fs::path& folder) {
  const auto own = folder / "generation_config.json";
  const auto file = fs::exists(own) ? own : folder / "config.json";
  return token_list(read_json_file(file).value("eos_token_id", Json()), file.string());
}

decode::Decoder decoder_of(CausalLM& model, DrafterKind drafter) {
  if (drafter == DrafterKind::kNone) return decode::Decoder(model);
  if (drafter == DrafterKind::kPromptLookup) {
    return decode::Decoder(model, [] { return decode::prompt_lookup(); });
  }
  if (model.speculative_state().empty()) {
    throw Error(ErrorCode::kNotConverted, "the model has no draft",
                "decode with --no-draft or --drafter prompt-lookup, or convert it first");
  }
  return decoder_with(model, model.speculative_state().front().draft);
}

decode::Decoder decoder_with(CausalLM& model, const std::shared_ptr<Draft>& draft) {
  draft->make_drafter();  // before the first token is decoded in vain
  return decode::Decoder(
      model, [draft] { return draft->make_drafter(); }, draft->hidden_states_needed());
}

const std::map<std::string, DraftShape>& draft_shapes() {
  static const std::map<std::string, DraftShape> shapes{{"chain", DraftShape::kChain},
                                                        {"static-tree", DraftShape::kStaticTree},
                                                        {"dynamic-tree", DraftShape::kDynamicTree}};
  return shapes;
}

std::string name_of(DraftShape shape) {
  return std::ranges::find(draft_shapes(), shape, [](const auto& pair) { return pair.second; })
      ->first;
}

DraftPlan::DraftPlan(const DraftSettings& settings) {
  const bool is_chain = settings.shape == DraftShape::kChain;
  const int64_t tokens =
      settings.tokens > 0 ? settings.tokens : (is_chain ? kChainTokens : kTreeTokens);
  if (settings.tokens < 0 || settings.depth < 1 || settings.width < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a draft of {} tokens, depth {} and width {}", settings.tokens,
                            settings.depth, settings.width),
                "each is at least one");
  }
  if (is_chain) {
    request_ = {.max_tokens = tokens, .depth = tokens};
    return;
  }
  const bool is_static = settings.shape == DraftShape::kStaticTree;
  if (is_static) form_ = decode::likely_form(tokens, settings.depth, settings.width);
  request_ = tree_request(settings, tokens, is_static ? &form_ : nullptr);
}

}  // namespace outrider
