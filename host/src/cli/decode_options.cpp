#include "cli/decode_options.h"

#include <map>

#include "outrider/host/checkpoint.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, DrafterKind> kDrafters{{"model", DrafterKind::kModel},
                                                   {"prompt-lookup", DrafterKind::kPromptLookup}};
const std::map<std::string, decode::AcceptanceRule> kRules{
    {"lossless", decode::AcceptanceRule::kLossless}, {"typical", decode::AcceptanceRule::kTypical}};

template <class Value, class Target>
void add_choice(CLI::App& verb, const char* name, const std::map<std::string, Value>& values,
                Target& target, const std::string& description) {
  std::vector<std::string> names;
  for (const auto& [known, value] : values) names.push_back(known);
  verb.add_option_function<std::string>(
          name, [&](const std::string& chosen) { target = values.at(chosen); }, description)
      ->check(CLI::IsMember(names))
      ->type_name("NAME");
}

void add_distribution_options(CLI::App& verb, decode::DecodeOptions& options) {
  verb.add_option("--temperature", options.sampling.temperature,
                  "Of the distribution that tokens are drawn from; 0: the likeliest token")
      ->capture_default_str();
  add_choice(verb, "--acceptance", kRules, options.rule,
             "lossless (the default), or typical, which changes the distribution");
}

void add_sampling_options(CLI::App& verb, decode::DecodeOptions& options) {
  verb.add_option("--max-new-tokens", options.max_new_tokens, "At most so many tokens a prompt")
      ->capture_default_str();
  verb.add_option("--top-k", options.sampling.top_k, "Draw from the k likeliest tokens (0: all)")
      ->capture_default_str();
  verb.add_option("--top-p", options.sampling.top_p,
                  "Draw from the likeliest tokens that are together so probable")
      ->capture_default_str();
  verb.add_option("--seed", options.seed, "Of the random numbers")->capture_default_str();
}

void add_draft_options(CLI::App& verb, DraftSettings& draft) {
  add_choice(verb, "--draft-shape", draft_shapes(), draft.shape,
             "chain (the default), static-tree (of a fixed form), or dynamic-tree (the likeliest "
             "tokens)");
  verb.add_option("--num-draft-tokens", draft.tokens,
                  "Tokens drafted for one pass of the base (default: 3 of a chain, 16 of a tree)");
  verb.add_option("--draft-depth", draft.depth, "Levels of a tree")->capture_default_str();
  verb.add_option("--draft-width", draft.width,
                  "Children of a node, and nodes that have some in a level of a dynamic tree")
      ->capture_default_str();
}

}  // namespace

DrafterKind DecodeArguments::drafter_for(const CausalLM& model) const {
  if (no_draft) return DrafterKind::kNone;
  const bool has_draft = !model.speculative_state().empty();
  return drafter.value_or(has_draft ? DrafterKind::kModel : DrafterKind::kNone);
}

void add_decode_options(CLI::App& verb, DecodeArguments& arguments) {
  add_distribution_options(verb, arguments.decode);
  add_base_decode_options(verb, arguments);
}

void add_base_decode_options(CLI::App& verb, DecodeArguments& arguments) {
  add_sampling_options(verb, arguments.decode);
  add_draft_options(verb, arguments.draft);
  verb.add_option("--batch-size", arguments.batch_size, "Prompts that are decoded together")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  add_model_options(verb, arguments.model);
  add_base_option(verb, arguments.load.base);
  add_numerics_option(verb, arguments.load.reference_numerics);
}

void add_drafter_options(CLI::App& verb, DecodeArguments& arguments) {
  verb.add_flag("--no-draft", arguments.no_draft, "Plain decoding");
  add_choice(verb, "--drafter", kDrafters, arguments.drafter,
             "model (its draft; the default where it has one) or prompt-lookup");
}

std::shared_ptr<CausalLM> load_to_decode(const fs::path& folder, const DecodeArguments& arguments) {
  auto load = with_options(arguments.load, arguments.model);
  // A CPU reads weights of bfloat16 as they are stored and computes in float32 as fast.
  const bool computes_single = load.dtype.value_or(at::kFloat) == at::kFloat;
  load.widen_at_use =
      load.device.is_cpu() && computes_single && read_config(folder).dtype == at::kBFloat16;
  if (load.widen_at_use) load.dtype = at::kFloat;
  load.for_computing = true;
  load.on_note = show_note;
  auto model = from_pretrained(folder, load);
  if (load.widen_at_use && model->dtype() == at::kFloat) hold_drafts_in(*model, at::kBFloat16);
  model->eval();
  return model;
}

}  // namespace outrider::cli
