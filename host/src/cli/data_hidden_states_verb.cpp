#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <set>

#include "cli/app.h"
#include "cli/data_verbs.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/hidden_state_shards.h"
#include "trainer/progress.h"

namespace outrider::cli {
namespace {

struct HiddenStatesArguments {
  std::filesystem::path model, data, out, draft;
  std::string device = "cpu", dtype;
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

/// Conversations per second until now, on stderr.
class Progress {
 public:
  void update(int64_t conversations, int64_t total, int64_t tokens) {
    const auto now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - started_).count();
    ProgressReport report;
    report.unit = "conversation";
    report.step = conversations;
    report.total_steps = total;
    report.share = static_cast<double>(conversations) / static_cast<double>(total);
    report.tokens_per_second = static_cast<double>(tokens) / seconds;
    report.eta_seconds = seconds * (1 - report.share) / report.share;
    const bool is_due = now - shown_ > std::chrono::seconds(10);
    if (is_due) shown_ = now;
    is_due ? line_.logged(report) : line_.update(report);
  }

 private:
  using Clock = std::chrono::steady_clock;
  ProgressLine line_{std::cerr, terminal_width(STDERR_FILENO)};
  Clock::time_point started_ = Clock::now(), shown_ = started_;
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
  LoadOptions load;
  load.device = parse_device(arguments.device);
  load.hash_weights = true;
  load.on_note = show_note;
  if (!arguments.dtype.empty()) load.dtype = parse_dtype(arguments.dtype);
  const auto model = from_pretrained(arguments.model, load);
  if (model->has_edit(BaseEdit::kDropDecoderLayers)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: its base has no decoder layers", arguments.model.string()),
                "give the base model here, and the converted folder with --for");
  }
  require_a_choice(arguments, *model);
  arguments.options.layers = wanted_layers(arguments, *model);
  Progress progress;
  arguments.options.on_progress = [&](int64_t conversations, int64_t total, int64_t tokens) {
    progress.update(conversations, total, tokens);
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
  verb->add_option("--dtype", arguments->dtype, "float32, bfloat16, float16 (default: as stored)");
  verb->add_option("--device", arguments->device, "cpu, cuda or cuda:N")->capture_default_str();
  add_shard_size_option(*verb, options.max_shard_size);
  verb->callback([arguments, &global] { write(*arguments, global); });
}

}  // namespace outrider::cli
