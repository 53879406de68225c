#include "registry.h"

#include "outrider/host/plugin_loader.h"
#include "outrider/model/base_model_registry.h"

namespace outrider::python {
namespace {

Json field_json(const FieldInfo& field) {
  return {{"name", field.name},
          {"default", field.default_value},
          {"description", field.description},
          {"extension", field.extension}};
}

std::map<std::string, std::string> listed(const PluginListing& listing) {
  std::map<std::string, std::string> entry{{"path", listing.path.string()},
                                           {"problem", listing.problem}};
  if (listing.info) {
    entry["name"] = listing.info->name;
    entry["version"] = listing.info->version.to_string();
  }
  return entry;
}

}  // namespace

std::vector<std::string> mode_names() { return plugin_loader().modes(); }

std::string describe_mode(const std::string& name) {
  const auto& mode = plugin_loader().load_mode(name);
  const auto& schema = mode.descriptor->config_schema();
  Json json{{"mode", name},
            {"plugin", {{"name", mode.plugin.name}, {"version", mode.plugin.version.to_string()}}},
            {"fields", Json::array()},
            {"presets", Json::object()}};
  for (const auto& field : schema.fields()) json["fields"].push_back(field_json(field));
  for (const auto& preset : mode.descriptor->presets())
    json["presets"][preset.name] = preset.overrides;
  return json.dump();
}

std::string resolve_config(const std::string& mode, const std::string& config) {
  const auto& schema = plugin_loader().load_mode(mode).descriptor->config_schema();
  return schema.resolve(Json::parse(config)).dump();
}

std::vector<std::map<std::string, std::string>> list_plugins() {
  std::vector<std::map<std::string, std::string>> all;
  for (const auto& listing : plugin_loader().list()) all.push_back(listed(listing));
  return all;
}

std::vector<std::string> native_architectures() { return BaseModelRegistry::instance().names(); }

}  // namespace outrider::python
