#include <fmt/format.h>

#include <memory>

#include "cli/app.h"
#include "outrider/host/checkpoint.h"
#include "verify/probe.h"

namespace outrider::cli {
namespace {

struct SaveArguments {
  std::filesystem::path model, out;
  LoadOptions load;
};

struct RestoreArguments {
  std::filesystem::path base, file, out;
  std::optional<std::string> numerics;
  bool replace = false;
  int64_t max_shard_size = SaveOptions().max_shard_size;
};

void print_result(const CausalLM& model, const std::filesystem::path& out, bool json) {
  Json modes = Json::array();
  for (const auto& attached : model.speculative_state()) modes.push_back(attached.state.mode);
  if (json) return print_json({{"out", out.string()}, {"modes", modes}});
  fmt::print("written to {}\n", out.string());
}

void save_file(const SaveArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  const auto model = from_pretrained(arguments.model, arguments.load);
  save(*model, arguments.out);
  print_result(*model, arguments.out, global.json);
}

void restore_folder(const RestoreArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  LoadOptions load;
  load.on_note = show_note;
  const auto model = from_pretrained(arguments.base, load);
  restore(*model, arguments.file, arguments.numerics);
  save_pretrained(*model, arguments.out,
                  {.source = arguments.base,
                   .replace = arguments.replace,
                   .max_shard_size = arguments.max_shard_size,
                   .complete = verify::probe_without_outputs(*model)});
  print_result(*model, arguments.out, global.json);
}

}  // namespace

void add_save_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<SaveArguments>();
  auto* verb = add_verb(app, "save", "Write a converted model into one file",
                        "outrider save SmolLM2-eagle3 --out SmolLM2-eagle3.safetensors");
  verb->add_option("DIR", arguments->model, "Converted model folder")->required();
  verb->add_option("--out", arguments->out, "Safetensors file to write")->required();
  add_base_option(*verb, arguments->load.base);
  add_numerics_option(*verb, arguments->load.reference_numerics);
  verb->callback([arguments, &global] { save_file(*arguments, global); });
}

void add_restore_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<RestoreArguments>();
  auto* verb = add_verb(app, "restore", "Rebuild a saved conversion on its base model",
                        "outrider restore SmolLM2 SmolLM2-eagle3.safetensors --out SmolLM2-eagle3");
  verb->add_option("BASE", arguments->base, "Folder of the base model, unconverted")->required();
  verb->add_option("FILE", arguments->file,
                   "What `outrider save` or ModelOpt's mto.save() wrote, or a converted folder")
      ->required();
  verb->add_option("--out", arguments->out, "Folder to write")->required();
  verb->add_flag("--replace", arguments->replace, "Replace an existing --out");
  add_numerics_option(*verb, arguments->numerics);
  add_shard_size_option(*verb, arguments->max_shard_size);
  verb->callback([arguments, &global] { restore_folder(*arguments, global); });
}

}  // namespace outrider::cli
