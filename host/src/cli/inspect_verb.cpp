#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>

#include "checkpoint/model_folder.h"
#include "cli/app.h"
#include "outrider/checkpoint/metadata.h"
#include "outrider/checkpoint/safetensors.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/error.h"
#include "outrider/host/base_reference.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/model/model_config.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace fs = std::filesystem;
namespace {

struct InspectArguments {
  fs::path folder, base;
  bool tensors = false;
  std::optional<std::string> numerics;
};

int64_t element_count(const TensorView& view) {
  int64_t count = 1;
  for (const int64_t size : view.shape) count *= size;
  return count;
}

// Parameters per part of the model: "model", "lm_head", "eagle_module", …
Json parameters_by_part(const SafetensorsFolder& stored) {
  Json parts = Json::object();
  for (const auto& [name, entry] : stored.tensors()) {
    const auto part = name.substr(0, name.find('.'));
    parts[part] = parts.value(part, int64_t{0}) + element_count(*entry.view);
  }
  return parts;
}

Json tensor_list(const SafetensorsFolder& stored) {
  Json tensors = Json::object();
  for (const auto& [name, entry] : stored.tensors()) {
    tensors[name] = {{"dtype", entry.view->dtype}, {"shape", entry.view->shape}};
  }
  return tensors;
}

// The plugin that would restore a mode here, or why none would.
Json restoring_plugin(const PluginRef& wanted) {
  try {
    const auto plugin = plugin_loader().resolve({wanted.name, wanted.range, wanted.sha256});
    return {{"version", plugin.version.to_string()},
            {"path", plugin.is_built_in ? plugin.location() : plugin.path.string()},
            {"is_the_writer", !wanted.sha256.empty() && plugin.sha256 == wanted.sha256}};
  } catch (const Error& error) {
    return {{"problem", error.what()}, {"hint", error.hint()}};
  }
}

Json required_plugins(const ModeState& state) {
  Json plugins = Json::array();
  for (const auto& plugin : state.requirements) {
    plugins.push_back({{"name", plugin.name},
                       {"version", plugin.version},
                       {"range", plugin.range},
                       {"restored_by", restoring_plugin(plugin)}});
  }
  return plugins;
}

// Who wrote the record of the conversions, and whether ModelOpt can read one as well.
Json record_of(const fs::path& folder, const CheckpointMetadata& metadata) {
  const bool is_ours = fs::exists(folder / CheckpointMetadata::kFileName);
  return {{"file", is_ours ? CheckpointMetadata::kFileName : kModelOptStateFile},
          {"written_by", metadata.written_by},
          {"restored_by_modelopt", fs::exists(folder / kModelOptStateFile)}};
}

Json mode_list(const CheckpointMetadata& metadata) {
  Json modes = Json::array();
  for (const auto& state : metadata.modes) {
    modes.push_back({{"mode", state.mode},
                     {"plugin",
                      {{"name", state.plugin.name},
                       {"version", state.plugin.version},
                       {"range", state.plugin.range},
                       {"sha256", state.plugin.sha256}}},
                     {"config", state.config},
                     {"metadata", state.metadata},
                     {"restored_by", restoring_plugin(state.plugin)},
                     {"requires", required_plugins(state)}});
  }
  return modes;
}

// The base that a folder of drafts alone refers to, and whether it is there and the same.
Json referenced_base(const ModelFolder& folder, const fs::path& given) {
  if (!folder.reference) return nullptr;
  auto json = folder.reference->to_json();
  try {
    const auto found = folder.reference->find(given);
    folder.reference->require_same(stored_base_sha256(found, folder.config), found);
    json["found"] = found.string();
  } catch (const Error& error) {
    json["problem"] = error.what();
    json["hint"] = error.hint();
  }
  return json;
}

Json description_of(const InspectArguments& arguments) {
  const auto folder =
      ModelFolder::open(arguments.folder, OpenFor::kInspection, arguments.numerics, show_note);
  const auto& config = folder.config;
  Json json = {{"folder", folder.path.string()},
               {"base_model",
                {{"architecture", config.architecture},
                 {"hidden_size", config.hidden_size},
                 {"num_hidden_layers", config.num_hidden_layers},
                 {"vocab_size", config.vocab_size},
                 {"dtype", dtype_name(config.dtype)},
                 {"reference", referenced_base(folder, arguments.base)}}},
               {"parameters", parameters_by_part(folder.tensors)},
               {"modes", mode_list(folder.metadata)}};
  if (!folder.metadata.modes.empty()) json["record"] = record_of(folder.path, folder.metadata);
  if (arguments.tensors) json["tensors"] = tensor_list(folder.tensors);
  return json;
}

void print_restoring(const Json& restored) {
  if (restored.contains("problem")) {
    fmt::print("  cannot be restored here: {}\n  {}\n", restored["problem"].get<std::string>(),
               restored["hint"].get<std::string>());
  } else {
    fmt::print("  would be restored by version {}{}: {}\n", restored["version"].get<std::string>(),
               restored["is_the_writer"].get<bool>() ? ", the writer itself" : "",
               restored["path"].get<std::string>());
  }
}

void print_record(const Json& record) {
  const bool both =
      record["restored_by_modelopt"].get<bool>() && record["file"] != kModelOptStateFile;
  fmt::print("{}, written by {}{}\n", record["file"].get<std::string>(),
             printable(record["written_by"].get<std::string>()),
             both ? fmt::format("; {} restores it in ModelOpt", kModelOptStateFile) : "");
}

void print_mode(const Json& mode) {
  const auto& plugin = mode["plugin"];
  const auto name = mode["mode"].get<std::string>(), version = plugin["version"].get<std::string>();
  if (version.empty()) {
    fmt::print("mode {}: of plugin {}\n", name, plugin["name"].get<std::string>());
  } else {
    const auto sha256 = plugin["sha256"].get<std::string>();
    fmt::print("mode {}: written by plugin {} {} ({})\n", name, plugin["name"].get<std::string>(),
               version, sha256.empty() ? "built in" : fmt::format("sha256 {:.12}…", sha256));
  }
  print_restoring(mode["restored_by"]);
  for (const auto& plugin : mode["requires"]) {
    fmt::print("  needs plugin {} {} as well\n", plugin["name"].get<std::string>(),
               plugin["range"].get<std::string>());
    print_restoring(plugin["restored_by"]);
  }
  fmt::print("  metadata {}\n", mode["metadata"].dump());
}

void print_reference(const Json& reference) {
  fmt::print("drafts only; their base is {} (weights {:.12}…)\n",
             reference["path"].get<std::string>(), reference["weights_sha256"].get<std::string>());
  if (reference.contains("problem")) {
    fmt::print("  {}\n  {}\n", reference["problem"].get<std::string>(),
               reference["hint"].get<std::string>());
  } else {
    fmt::print("  found, the same weights: {}\n", reference["found"].get<std::string>());
  }
}

void print_description(const Json& json) {
  const auto& base = json["base_model"];
  fmt::print("{}: {}, {} layers, hidden size {}, {} tokens, {}\n",
             json["folder"].get<std::string>(), base["architecture"].get<std::string>(),
             base["num_hidden_layers"].dump(), base["hidden_size"].dump(),
             base["vocab_size"].dump(), base["dtype"].get<std::string>());
  if (base["reference"].is_object()) print_reference(base["reference"]);
  Table table({"PART", "PARAMETERS"});
  for (const auto& [part, count] : json["parameters"].items()) table.add({part, count.dump()});
  table.print();
  if (json.contains("record")) print_record(json["record"]);
  for (const auto& mode : json["modes"]) print_mode(mode);
  if (json["modes"].empty()) fmt::print("not converted\n");
  if (!json.contains("tensors")) return;
  Table tensors({"TENSOR", "DTYPE", "SHAPE"});
  for (const auto& [name, tensor] : json["tensors"].items()) {
    tensors.add({name, tensor["dtype"].get<std::string>(), tensor["shape"].dump()});
  }
  tensors.print();
}

}  // namespace

void add_inspect_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<InspectArguments>();
  auto* verb =
      add_verb(app, "inspect", "Show what a model folder holds and which plugin restores it",
               "outrider inspect SmolLM2-eagle3 --json");
  verb->add_option("DIR", arguments->folder, "Model folder")->required();
  verb->add_flag("--tensors", arguments->tensors, "List every tensor");
  add_base_option(*verb, arguments->base);
  add_numerics_option(*verb, arguments->numerics);
  verb->callback([arguments, &global] {
    use_plugins(global);
    const auto json = description_of(*arguments);
    global.json ? print_json(json) : print_description(json);
  });
}

}  // namespace outrider::cli
