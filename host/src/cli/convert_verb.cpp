#include <ATen/ATen.h>
#include <fmt/format.h>

#include <memory>

#include "cli/app.h"
#include "cli/config_options.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/convert.h"
#include "outrider/host/draft_vocabulary.h"
#include "outrider/text.h"
#include "verify/probe.h"

namespace outrider::cli {
namespace {

struct ConvertArguments {
  std::string base, mode, dtype, reference_numerics;
  ConfigChoice choice;
  std::filesystem::path config_file, weights, draft_vocabulary, out;
  uint64_t seed = 0;
  bool replace = false;
  int64_t max_shard_size = SaveOptions().max_shard_size;
};

Json read_config_file(const std::filesystem::path& path) {
  if (path.empty()) return Json::object();
  auto file = read_json_file(path);
  if (!file.is_object()) {
    throw Error(ErrorCode::kInvalidFile, fmt::format("{}: not a JSON object", path.string()),
                "the file holds the mode's config: {\"key\": value, …}");
  }
  return file;
}

at::Tensor read_draft_vocabulary(const std::filesystem::path& path) {
  if (path.empty()) return {};
  return at::tensor(DraftVocabulary::read(path).ids, at::kLong);
}

Json summary(const CausalLM& model, const ConvertArguments& arguments) {
  Json modes = Json::array();
  for (const auto& attached : model.speculative_state()) {
    int64_t parameters = 0;
    for (const auto& parameter : attached.draft->parameters()) parameters += parameter.numel();
    modes.push_back({{"mode", attached.state.mode},
                     {"attribute", attached.attribute},
                     {"parameters", parameters},
                     {"metadata", attached.state.metadata}});
  }
  return {{"out", arguments.out.string()}, {"modes", modes}};
}

void print_conversion(const Json& json) {
  for (const auto& mode : json["modes"]) {
    fmt::print("{}: {} with {:.2f} M parameters\n", mode["mode"].get<std::string>(),
               mode["attribute"].get<std::string>(), mode["parameters"].get<double>() / 1e6);
  }
  fmt::print("written to {}\n", json["out"].get<std::string>());
}

void convert(const ConvertArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  LoadOptions load;
  load.hash_weights = true;
  load.on_note = show_note;
  if (!arguments.dtype.empty()) load.dtype = parse_dtype(arguments.dtype);
  const auto config =
      combined_config(arguments.mode, arguments.choice, read_config_file(arguments.config_file));
  const ModeRequest request(std::vector<ModeRequest::Item>{{arguments.mode, config}});
  const auto model = from_pretrained(arguments.base, load);
  ConvertOptions options;
  options.seed = arguments.seed;
  options.draft_vocabulary = read_draft_vocabulary(arguments.draft_vocabulary);
  if (!arguments.reference_numerics.empty()) {
    options.reference_numerics = arguments.reference_numerics;
  }
  options.on_note = show_note;
  speculative::convert(*model, request, options);
  if (!arguments.weights.empty()) load_weights(*model, arguments.weights);
  save_pretrained(*model, arguments.out,
                  {.source = arguments.base,
                   .replace = arguments.replace,
                   .max_shard_size = arguments.max_shard_size,
                   .complete = verify::probe_without_outputs(*model)});
  const auto json = summary(*model, arguments);
  global.json ? print_json(json) : print_conversion(json);
}

}  // namespace

void add_convert_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<ConvertArguments>();
  auto* verb =
      add_verb(app, "convert", "Attach a draft to a base model",
               "outrider convert SmolLM2 --mode eagle --preset eagle3 --out SmolLM2-eagle3");
  verb->add_option("BASE", arguments->base, "Folder of a Hugging Face model, or of a converted one")
      ->required();
  verb->add_option("--mode", arguments->mode, "Algorithm; `outrider mode list` names them")
      ->required();
  verb->add_option("--out", arguments->out, "Folder to write")->required();
  add_config_options(*verb, arguments->choice);
  verb->add_option("--config", arguments->config_file, "JSON file with the mode's config");
  verb->add_option("--weights", arguments->weights,
                   "Safetensors file that replaces parameters and buffers by name, strictly");
  verb->add_option("--draft-vocab", arguments->draft_vocabulary,
                   "Draft vocabulary made by `outrider data calibrate`");
  verb->add_option("--reference-numerics", arguments->reference_numerics,
                   "Compute as this ModelOpt release does: 0.47 or 0.42");
  verb->add_option("--seed", arguments->seed, "Seed of the draft's initial values")
      ->capture_default_str();
  verb->add_option("--dtype", arguments->dtype,
                   "float32, bfloat16 or float16 (default: as stored)");
  verb->add_flag("--replace", arguments->replace, "Replace an existing --out");
  add_shard_size_option(*verb, arguments->max_shard_size);
  verb->callback([arguments, &global] { convert(*arguments, global); });
}

}  // namespace outrider::cli
