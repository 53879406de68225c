#include <fmt/format.h>

#include <memory>

#include "cli/app.h"
#include "cli/mode_check_verb.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace {

constexpr size_t kLongestValue = 48;

struct ShowOptions {
  std::string name;
  bool schema = false, presets = false;
};

void list_as_json(const std::vector<PluginListing>& listings) {
  auto json = Json::array();
  for (const auto& listing : listings) {
    if (!listing.info) continue;
    for (const auto& mode : listing.info->modes) {
      json.push_back({{"mode", mode},
                      {"plugin", listing.info->name},
                      {"version", listing.info->version.to_string()},
                      {"usable", listing.is_usable()}});
    }
  }
  print_json(json);
}

void list_as_table(const std::vector<PluginListing>& listings) {
  Table table({"MODE", "PLUGIN", "VERSION", "USABLE"});
  for (const auto& listing : listings) {
    if (!listing.info) continue;
    for (const auto& mode : listing.info->modes) {
      table.add({mode, listing.info->name, listing.info->version.to_string(),
                 listing.is_usable() ? "yes" : "no"});
    }
  }
  table.print();
}

std::string type_name(FieldType type) {
  switch (type) {
    case FieldType::kBool:
      return "boolean";
    case FieldType::kInt:
      return "integer";
    case FieldType::kFloat:
      return "number";
    case FieldType::kString:
      return "string";
    case FieldType::kList:
      return "list";
    case FieldType::kObject:
      return "object";
  }
  return "";
}

std::string accepted(const FieldInfo& field) {
  std::string text = type_name(field.type);
  if (!field.choices.empty()) {
    std::vector<std::string> choices;
    for (const auto& choice : field.choices) choices.push_back(choice.dump());
    text = join(choices, " | ");
  }
  if (field.minimum) text += fmt::format(" >= {}", *field.minimum);
  if (field.maximum) text += fmt::format("{} <= {}", field.minimum ? "," : "", *field.maximum);
  return field.nullable ? text + " or null" : text;
}

void print_fields(const ConfigSchema& schema) {
  Table table({"FIELD", "TYPE", "DEFAULT", "DESCRIPTION"});
  bool has_extensions = false;
  for (const auto& field : schema.fields()) {
    has_extensions |= field.extension;
    table.add({field.name + (field.extension ? " *" : ""), accepted(field),
               printable(field.default_value.dump(), kLongestValue), field.description});
  }
  table.print();
  if (has_extensions) fmt::print("* an extension: ModelOpt's config does not have this field\n");
}

void print_presets(const std::vector<Preset>& presets) {
  for (const auto& preset : presets) {
    fmt::print("{}: {}\n{}\n", preset.name, preset.description, preset.overrides.dump(2));
  }
}

Json presets_json(const std::vector<Preset>& presets) {
  auto json = Json::array();
  for (const auto& preset : presets) {
    json.push_back({{"name", preset.name},
                    {"description", preset.description},
                    {"overrides", preset.overrides}});
  }
  return json;
}

Json mode_json(const RegisteredMode& mode) {
  auto formats = Json::array();
  for (const auto& format : mode.descriptor->formats()) formats.push_back(format.name);
  return {{"name", mode.descriptor->name()},
          {"description", mode.descriptor->description()},
          {"plugin", {{"name", mode.plugin.name}, {"version", mode.plugin.version.to_string()}}},
          {"config_version", mode.descriptor->config_schema().version()},
          {"config_schema", mode.descriptor->config_schema().json_schema()},
          {"presets", presets_json(mode.descriptor->presets())},
          {"formats", std::move(formats)}};
}

void print_mode(const RegisteredMode& mode) {
  std::vector<std::string> presets, formats;
  for (const auto& preset : mode.descriptor->presets()) presets.push_back(preset.name);
  for (const auto& format : mode.descriptor->formats()) formats.push_back(format.name);
  fmt::print("{}: {}\nplugin:  {} {}\npresets: {}\nformats: {}\n\n", mode.descriptor->name(),
             mode.descriptor->description(), mode.plugin.name, mode.plugin.version.to_string(),
             presets.empty() ? "none" : join(presets, ", "),
             formats.empty() ? "none" : join(formats, ", "));
  print_fields(mode.descriptor->config_schema());
}

void show_mode(const ShowOptions& show, bool as_json) {
  const auto& mode = plugin_loader().load_mode(show.name);
  if (show.schema) {
    print_json(mode.descriptor->config_schema().json_schema());
  } else if (show.presets) {
    const auto presets = mode.descriptor->presets();
    as_json ? print_json(presets_json(presets)) : print_presets(presets);
  } else {
    as_json ? print_json(mode_json(mode)) : print_mode(mode);
  }
}

void add_mode_list(CLI::App& mode, const GlobalOptions& options) {
  add_verb(mode, "list", "Modes of the installed plugins", "outrider mode list")
      ->callback([&options] {
        use_plugins(options);
        const auto listings = plugin_loader().list();
        options.json ? list_as_json(listings) : list_as_table(listings);
      });
}

void add_mode_show(CLI::App& mode, const GlobalOptions& options) {
  auto* verb = add_verb(mode, "show", "A mode's config fields, presets and formats",
                        "outrider mode show eagle --presets");
  const auto wanted = std::make_shared<ShowOptions>();
  verb->add_option("NAME", wanted->name, "The mode's name")->required();
  auto* schema = verb->add_flag("--schema", wanted->schema, "Print the config's JSON Schema");
  verb->add_flag("--presets", wanted->presets, "Print the presets with their values")
      ->excludes(schema);
  verb->callback([&options, wanted] {
    use_plugins(options);
    show_mode(*wanted, options.json);
  });
}

}  // namespace

void add_mode_verb(CLI::App& app, const GlobalOptions& options) {
  auto* mode =
      add_verb(app, "mode", "Algorithms that a model can be converted with: list, show, check",
               "outrider mode list");
  mode->require_subcommand(1);
  add_mode_list(*mode, options);
  add_mode_show(*mode, options);
  add_mode_check_verb(*mode, options);
}

}  // namespace outrider::cli
