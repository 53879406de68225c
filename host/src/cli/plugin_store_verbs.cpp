#include "cli/plugin_store_verbs.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "cli/plugin_listing.h"
#include "outrider/error.h"
#include "outrider/host/plugin_store.h"
#include "outrider/host/plugin_verification.h"
#include "outrider/host/sha256.h"
#include "outrider/text.h"
#include "plugins/plugin_choice.h"

namespace outrider::cli {
namespace {

struct AddArguments {
  std::filesystem::path file;
  PluginStore::AddOptions options;
};

struct RemoveArguments {
  std::string name, version;
  bool all = false;
};

std::vector<PluginListing> verified(const GlobalOptions& global) {
  return verify_plugins(plugin_policy(global));
}

/// What will surprise the user later: the store is not the folder that is searched first.
void warn_of_earlier_folders(const PluginInfo& plugin, const GlobalOptions& global) {
  for (const auto& listing : verified(global)) {
    if (listing.path == plugin.path) return;
    if (!listing.is_usable() || !is_another_file_of(*listing.info, plugin)) continue;
    note(
        fmt::format("warning: plugin {} {}: another file of this version, {}, lies in a folder "
                    "that is searched before the store and is what runs",
                    plugin.name, plugin.version.to_string(), listing.info->location()));
  }
}

std::string outcome(const PluginStore::Added& added) {
  if (!added.replaced.empty()) return "replaced another file";
  return added.is_new ? "added" : "was there already";
}

Json added_json(const PluginStore::Added& added) {
  auto json = cli::to_json(added.plugin);
  json["is_new"] = added.is_new;
  json["replaced"] = Json::array();
  for (const auto& entry : added.replaced) json["replaced"].push_back(entry.sha256);
  return json;
}

void add_plugin(const AddArguments& arguments, const GlobalOptions& global) {
  const auto& expected = arguments.options.sha256;
  if (!expected.empty() && !is_sha256(expected)) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("--sha256 {}: not 64 lower-case hexadecimal digits", printable(expected)),
        "`sha256sum FILE` prints them");
  }
  const auto added = PluginStore::of_user().add(arguments.file, arguments.options);
  global.json ? print_json(added_json(added)) : print_details(added.plugin, outcome(added));
  warn_of_earlier_folders(added.plugin, global);
}

void remove_plugin(const RemoveArguments& arguments, const GlobalOptions& global) {
  PluginStore::Removal removal{.name = arguments.name, .version = {}, .all = arguments.all};
  if (!arguments.version.empty()) removal.version = SemVer::parse(arguments.version);
  const auto store = PluginStore::of_user();
  auto json = Json::array();
  for (const auto& entry : store.remove(removal)) {
    json.push_back({{"path", (store.folder() / entry.file).string()},
                    {"name", entry.name},
                    {"version", entry.version},
                    {"sha256", entry.sha256}});
    if (global.json) continue;
    fmt::print("removed {} {} ({})\n", entry.name, printable(entry.version),
               printable((store.folder() / entry.file).string()));
  }
  if (global.json) print_json(json);
}

std::vector<PluginListing> chosen(std::vector<PluginListing> listings, const std::string& name) {
  if (name.empty()) return listings;
  const auto known = names_of(listings);
  std::erase_if(listings, [&](const PluginListing& listing) { return !may_be(listing, name); });
  if (!listings.empty()) return listings;
  throw Error(ErrorCode::kPluginNotFound,
              fmt::format("no plugin '{}' is installed", printable(name)), suggestion(name, known));
}

void verify(const std::string& name, const GlobalOptions& global) {
  const auto listings = chosen(verified(global), name);
  global.json ? print_json(cli::to_json(listings)) : print_list(listings);
  const auto is_wrong = [](const PluginListing& listing) { return !listing.is_usable(); };
  const auto first = std::ranges::find_if(listings, is_wrong);
  if (first == listings.end()) return;
  throw Error(first->problem_code,
              fmt::format("{} of {} plugins cannot be used",
                          std::ranges::count_if(listings, is_wrong), listings.size()));
}

void add_add(CLI::App& plugin, const GlobalOptions& global) {
  auto* verb = add_verb(plugin, "add", "Check a plugin's file and install it for yourself",
                        "outrider plugin add eagle.outrider.so");
  const auto arguments = std::make_shared<AddArguments>();
  verb->add_option("FILE", arguments->file, "The plugin's file; it is copied")->required();
  verb->add_option("--sha256", arguments->options.sha256, "Refuse any other file than this one");
  verb->add_flag("--replace", arguments->options.replace,
                 "Take it instead of another file of the same name and version");
  verb->callback([&global, arguments] { add_plugin(*arguments, global); });
}

void add_remove(CLI::App& plugin, const GlobalOptions& global) {
  auto* verb = add_verb(plugin, "remove", "Delete a plugin that was added",
                        "outrider plugin remove eagle --version 0.1.0");
  const auto arguments = std::make_shared<RemoveArguments>();
  verb->add_option("NAME", arguments->name, "The plugin's name")->required();
  auto* version = verb->add_option("--version", arguments->version, "Only this version");
  verb->add_flag("--all", arguments->all, "Every version")->excludes(version);
  verb->callback([&global, arguments] { remove_plugin(*arguments, global); });
}

void add_verify(CLI::App& plugin, const GlobalOptions& global) {
  auto* verb = add_verb(
      plugin, "verify",
      "Check every plugin against its lock file, without running it; fails if any cannot be used",
      "outrider plugin verify --json");
  const auto name = std::make_shared<std::string>();
  verb->add_option("NAME", *name, "Only this plugin");
  verb->callback([&global, name] { verify(*name, global); });
}

}  // namespace

void add_plugin_store_verbs(CLI::App& plugin, const GlobalOptions& options) {
  add_add(plugin, options);
  add_remove(plugin, options);
  add_verify(plugin, options);
}

}  // namespace outrider::cli
