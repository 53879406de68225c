#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <iostream>
#include <memory>
#include <set>

#include "cli/app.h"
#include "cli/data_verbs.h"
#include "cli/model_options.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/hidden_state_shards.h"
#include "trainer/interrupt.h"
#include "trainer/progress.h"

namespace outrider::cli {
namespace {

struct HiddenStatesArguments {
  std::filesystem::path model, data, out, draft;
  ModelOptions computing;
  HiddenStateOptions options;
};

std::set<int64_t> layers_read_by(const CausalLM& model) {
  const auto layers = model.hidden_states_needed().layer_outputs;
  return {layers.begin(), layers.end()};
}

std::vector<int64_t> wanted_layers(const HiddenStatesArguments& arguments, const CausalLM& model) {
  auto layers = layers_read_by(model);
  if (!arguments.draft.empty()) layers.merge(layers_read_by(*from_pretrained(arguments.draft)));
  layers.insert(arguments.options.layers.begin(), arguments.options.layers.end());
  return {layers.begin(), layers.end()};
}

// Without layers only drafts that read the last hidden state can be trained: that must be meant.
void require_a_choice(const HiddenStatesArguments& arguments, const CausalLM& model) {
  if (!model.speculative_state().empty() || !arguments.draft.empty() ||
      !arguments.options.layers.empty()) {
    return;
  }
  throw Error(ErrorCode::kInvalidArgument, "which layers should be stored?",
              "give --for CONVERTED, the folder whose drafts will be trained, or --layers 1,14,26");
}

/// Shows how far the work is, and ends it where somebody wants that.
class Watch {
 public:
  void after_batch(int64_t conversations, int64_t total, int64_t tokens) {
    progress_.update(conversations, total, tokens);
    if (!interrupt_.requested() || conversations == total) return;
    throw Error(ErrorCode::kInterrupted,
                fmt::format("interrupted after {} of {} conversations; nothing was kept",
                            conversations, total),
                "start the same command again");
  }

 private:
  InterruptScope interrupt_;
  ProgressLine line_{std::cerr, terminal_width(STDERR_FILENO)};
  WorkProgress progress_{line_, "conversation"};
};

void print_summary(const Json& json, const std::filesystem::path& out) {
  int64_t tokens = 0;
  for (const auto& file : json["files"]) tokens += file["tokens"].get<int64_t>();
  const auto layers = json["layers"].get<std::vector<int64_t>>();
  fmt::print(
      "{}: hidden states of {} tokens in {} files, last hidden {}{}\n", out.string(), tokens,
      json["files"].size(),
      json["last_hidden"] == "after_final_norm" ? "after the final norm" : "before the final norm",
      layers.empty() ? "" : fmt::format(", layers {}", fmt::join(layers, ", ")));
}

void write(HiddenStatesArguments arguments, const GlobalOptions& global) {
  use_plugins(global);
  const auto load = with_options({.hash_weights = true}, arguments.computing);
  const auto model = load_to_run(arguments.model, load);
  if (model->has_edit(BaseEdit::kDropDecoderLayers)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: its base has no decoder layers", arguments.model.string()),
                "give the base model here, and the converted folder with --for");
  }
  require_a_choice(arguments, *model);
  arguments.options.layers = wanted_layers(arguments, *model);
  Watch watch;
  arguments.options.on_progress = [&](int64_t conversations, int64_t total, int64_t tokens) {
    watch.after_batch(conversations, total, tokens);
  };
  const auto json = write_hidden_states(*model, arguments.data, arguments.out, arguments.options);
  global.json ? print_json(json) : print_summary(json, arguments.out);
}

}  // namespace

void add_data_hidden_states_verb(CLI::App& data, const GlobalOptions& global) {
  auto* verb = add_verb(data, "hidden-states",
                        "Run a base over token shards and store what offline training reads",
                        "outrider data hidden-states SmolLM2 --for smol-eagle --data shards --out "
                        "offline");
  auto arguments = std::make_shared<HiddenStatesArguments>();
  auto& options = arguments->options;
  verb->add_option("MODEL", arguments->model, "Base model folder, or a converted one")->required();
  verb->add_option("--data", arguments->data, "Token shards")->required();
  verb->add_option("--out", arguments->out, "Folder to write: the token shards and hidden states")
      ->required();
  verb->add_option("--for", arguments->draft, "Converted folder whose drafts name the layers");
  verb->add_option("--layers", options.layers, "Layers, separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false);
  verb->add_flag("--prenorm", options.prenorm, "Store the last state from before the final norm");
  verb->add_option("--max-length", options.max_length, "Cut conversations (0: whole)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--batch-size", options.batch_size, "Conversations per forward pass")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  add_model_options(*verb, arguments->computing);
  add_shard_size_option(*verb, options.max_shard_size);
  verb->callback([arguments, &global] { write(*arguments, global); });
}

}  // namespace outrider::cli
