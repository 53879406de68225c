#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cli/app.h"
#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace {

Json to_json(const PluginListing& listing) {
  Json json = {{"path", listing.path.string()}, {"usable", listing.is_usable()}};
  if (listing.info) {
    json["name"] = listing.info->name;
    json["version"] = listing.info->version.to_string();
    json["modes"] = listing.info->modes;
    json["bases"] = listing.info->bases;
    json["draft_models"] = listing.info->draft_models;
    json["sha256"] = listing.info->sha256;
    json["torch"] = listing.info->torch_build;
    json["cuda_archs"] = listing.info->cuda_archs;
  }
  if (!listing.is_usable()) {
    json["problem"] = listing.problem;
    json["problem_code"] = error_code_name(listing.problem_code);
    json["hint"] = listing.hint;
  }
  return json;
}

Json to_json(const std::vector<PluginListing>& listings) {
  auto json = Json::array();
  for (const auto& listing : listings) json.push_back(to_json(listing));
  return json;
}

std::string status(const PluginListing& listing) {
  return listing.is_usable() ? "usable" : std::string(error_code_name(listing.problem_code));
}

std::vector<std::string> provided(const PluginInfo& plugin) {
  auto names = plugin.modes;
  names.insert(names.end(), plugin.bases.begin(), plugin.bases.end());
  names.insert(names.end(), plugin.draft_models.begin(), plugin.draft_models.end());
  return names;
}

std::string or_none(const std::string& text) { return text.empty() ? "none" : text; }

void print_list(const std::vector<PluginListing>& listings) {
  if (listings.empty()) {
    note("no plugin is installed; `outrider doctor` shows the folders that were searched");
    return;
  }
  Table table({"NAME", "VERSION", "PROVIDES", "STATUS", "FILE"});
  for (const auto& listing : listings) {
    const auto info = listing.info.value_or(PluginInfo{});
    table.add({listing.info ? info.name : "?", listing.info ? info.version.to_string() : "?",
               listing.info ? join(provided(info), ", ") : "?", status(listing),
               printable(listing.path.string())});
  }
  table.print();
  for (const auto& listing : listings) {
    if (!listing.is_usable()) note(fmt::format("{}\n  hint: {}", listing.problem, listing.hint));
  }
}

void print_details(const PluginListing& listing) {
  const auto& info = *listing.info;
  Table table({"plugin", info.name});
  table.add({"version", info.version.to_string()});
  table.add({"modes", or_none(join(info.modes, ", "))});
  table.add({"base architectures", or_none(join(info.bases, ", "))});
  table.add({"draft models", or_none(join(info.draft_models, ", "))});
  table.add({"file", printable(listing.path.string())});
  table.add({"sha256", info.sha256});
  table.add({"LibTorch", info.torch_build});
  table.add({"CUDA architectures", or_none(info.cuda_archs)});
  table.add({"status", status(listing)});
  table.print();
  if (!listing.is_usable()) note(fmt::format("{}\nhint: {}", listing.problem, listing.hint));
}

std::vector<PluginListing> named(const std::string& name) {
  std::vector<PluginListing> found;
  std::vector<std::string> known;
  for (const auto& listing : plugin_loader().list()) {
    if (!listing.info) continue;
    known.push_back(listing.info->name);
    if (known.back() == name) found.push_back(listing);
  }
  if (!found.empty()) return found;
  throw Error(ErrorCode::kPluginNotFound,
              fmt::format("no plugin '{}' is installed", printable(name)), suggestion(name, known));
}

void show(const std::string& name, bool as_json) {
  const auto found = named(name);
  if (as_json) return print_json(to_json(found));
  for (const auto& listing : found) print_details(listing);
}

void lock(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) {
    throw Error(ErrorCode::kFileNotFound,
                fmt::format("{}: no such folder", printable(folder.string())));
  }
  const auto lock = PluginLock::of_folder(std::filesystem::absolute(folder));
  lock.write(folder);
  for (const auto& entry : lock.entries) {
    note(fmt::format("locked {} {} ({})", entry.name, entry.version, entry.sha256));
  }
}

void add_list(CLI::App& plugin, const GlobalOptions& options) {
  add_verb(plugin, "list", "Plugins of the search path, and what is wrong with them",
           "outrider plugin list")
      ->callback([&options] {
        use_plugins(options);
        const auto listings = plugin_loader().list();
        options.json ? print_json(to_json(listings)) : print_list(listings);
      });
}

void add_show(CLI::App& plugin, const GlobalOptions& options) {
  auto* verb = add_verb(plugin, "show", "Everything that a plugin's file says about it",
                        "outrider plugin show eagle");
  const auto name = std::make_shared<std::string>();
  verb->add_option("NAME", *name, "The plugin's name")->required();
  verb->callback([&options, name] {
    use_plugins(options);
    show(*name, options.json);
  });
}

void add_lock(CLI::App& plugin) {
  auto* verb = add_verb(plugin, "lock",
                        "Write a folder's plugins.lock.json over its plugins as they are now",
                        "outrider plugin lock build/lib/outrider/plugins");
  verb->group("");
  const auto folder = std::make_shared<std::filesystem::path>();
  verb->add_option("FOLDER", *folder, "The folder")->required();
  verb->callback([folder] { lock(*folder); });
}

}  // namespace

void add_plugin_verb(CLI::App& app, const GlobalOptions& options) {
  auto* plugin = add_verb(app, "plugin", "Installed plugins, and writing new ones",
                          "outrider plugin list");
  plugin->require_subcommand(1);
  add_list(*plugin, options);
  add_show(*plugin, options);
  add_lock(*plugin);
  add_plugin_author_verbs(*plugin, options);
}

}  // namespace outrider::cli
