#include <fmt/format.h>

#include <memory>

#include "cli/app.h"
#include "cli/plugin_listing.h"
#include "cli/plugin_store_verbs.h"
#include "outrider/error.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace {

std::vector<PluginListing> named(const std::string& name) {
  auto listings = plugin_loader().list();
  const auto known = names_of(listings);
  std::erase_if(listings, [&](const PluginListing& listing) {
    return !listing.info || listing.info->name != name;
  });
  if (!listings.empty()) return listings;
  throw Error(ErrorCode::kPluginNotFound,
              fmt::format("no plugin '{}' is installed", printable(name)), suggestion(name, known));
}

void show_plugin(const std::string& name, bool as_json) {
  const auto found = named(name);
  if (as_json) return print_json(cli::to_json(found));
  for (const auto& listing : found) {
    print_details(*listing.info, status(listing));
    if (!listing.is_usable()) note(fmt::format("{}\nhint: {}", listing.problem, listing.hint));
  }
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

void add_plugin_list(CLI::App& plugin, const GlobalOptions& options) {
  add_verb(plugin, "list", "Plugins of the search path, and what is wrong with them",
           "outrider plugin list")
      ->callback([&options] {
        use_plugins(options);
        const auto listings = plugin_loader().list();
        options.json ? print_json(cli::to_json(listings)) : print_list(listings);
      });
}

void add_plugin_show(CLI::App& plugin, const GlobalOptions& options) {
  auto* verb = add_verb(plugin, "show", "Everything that a plugin's file says about it",
                        "outrider plugin show eagle");
  const auto name = std::make_shared<std::string>();
  verb->add_option("NAME", *name, "The plugin's name")->required();
  verb->callback([&options, name] {
    use_plugins(options);
    show_plugin(*name, options.json);
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
  auto* plugin =
      add_verb(app, "plugin", "Installed plugins, and writing new ones", "outrider plugin list");
  plugin->require_subcommand(1);
  add_plugin_list(*plugin, options);
  add_plugin_show(*plugin, options);
  add_plugin_store_verbs(*plugin, options);
  add_lock(*plugin);
  add_plugin_author_verbs(*plugin, options);
}

}  // namespace outrider::cli
