#include "outrider/host/plugin_loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "outrider/host/plugin_lock.h"
#include "outrider/text.h"
#include "plugins/plugin_choice.h"
#include "plugins/plugin_entry.h"
#include "plugins/plugin_files.h"
#include "plugins/plugin_title.h"
#include "plugins/stamp_info.h"
#include "plugins/torch_runtime.h"
#include "plugins/unknown_mode.h"

namespace outrider {
namespace {

[[noreturn]] void fail_lock(const PluginInfo& plugin, const std::string& what,
                            const std::string& hint) {
  throw Error(ErrorCode::kPluginHashMismatch,
              fmt::format("plugin {}: {}", printable(plugin.path.string()), what), hint);
}

void check_lock(const PluginInfo& plugin) {
  const auto lock = PluginLock::read(plugin.path.parent_path());
  const auto* entry = lock.find(plugin.path.filename().string());
  if (entry == nullptr) {
    fail_lock(plugin, fmt::format("{} of its folder does not list it", PluginLock::kFileName),
              fmt::format("if you trust this file, `outrider plugin add {}` installs it; "
                          "--allow-unlocked-plugins is for plugin authors",
                          printable(plugin.path.string())));
  }
  if (entry->sha256 != plugin.sha256) {
    fail_lock(plugin,
              fmt::format("its SHA-256 is {}, but {} has {}: it changed after it was locked",
                          plugin.sha256, PluginLock::kFileName, entry->sha256),
              "run `outrider plugin add FILE` with the file that was locked; if you trust the "
              "change, with this one and --replace");
  }
}

[[noreturn]] void fail_built_in(const PluginInfo& plugin) {
  throw Error(
      ErrorCode::kPluginConflict,
      fmt::format("plugin {} is not used: this program has the plugin '{}' built in, and two "
                  "copies would register the same operators",
                  plugin_title(plugin), plugin.name),
      "to use the file, build the program without it in OUTRIDER_STATIC_PLUGINS");
}

PluginListing examine_built_in(const StaticPlugin& plugin) {
  PluginListing listing{.path = {}, .info = PluginInfo{}, .problem = {}, .hint = {}};
  listing.info->is_built_in = true;
  describe(plugin.stamp, *listing.info);
  try {
    check_compatibility(plugin.stamp, *listing.info);
  } catch (const Error& e) {
    listing.set_problem(e);
  }
  return listing;
}

std::string draft_model_name(const std::string& mode, const std::string& architecture) {
  return mode + "/" + architecture;
}

void check_free(const PluginInfo& plugin, const PluginContent& content) {
  std::vector<std::string> conflicts;
  for (const auto& [name, factory] : content.bases) {
    if (BaseModelRegistry::instance().knows(name)) conflicts.push_back("base " + in_quotes(name));
  }
  for (const auto& [key, factory] : content.draft_models) {
    if (!DraftModelRegistry::instance().find(key.first, key.second)) continue;
    conflicts.push_back(fmt::format("a draft class of mode {} for {}", in_quotes(key.first),
                                    in_quotes(key.second)));
  }
  if (conflicts.empty()) return;
  throw Error(ErrorCode::kPluginConflict,
              fmt::format("plugin {} cannot be used: this process has {} already",
                          plugin_title(plugin), join(conflicts, " and ")),
              "use one of the two plugins in a process");
}

// All of it, or nothing: what can fail comes first. Only the loader adds to the registries.
void publish(const PluginInfo& plugin, PluginContent content,
             SpeculativeDecodingModeRegistry& modes) {
  check_free(plugin, content);
  modes.commit(plugin, std::move(content.modes));
  for (auto& [name, factory] : content.bases) {
    BaseModelRegistry::instance().add(name, std::move(factory));
  }
  for (auto& [key, factory] : content.draft_models) {
    DraftModelRegistry::instance().add(key.first, key.second, std::move(factory));
  }
}

}  // namespace

void PluginListing::set_problem(const Error& error) {
  problem = error.what();
  hint = error.hint();
  problem_code = error.code();
}

PluginLoader::PluginLoader(PluginPolicy policy, SpeculativeDecodingModeRegistry& registry)
    : policy_(std::move(policy)), registry_(registry) {}

std::vector<PluginListing> PluginLoader::list() const {
  std::vector<PluginListing> listings;
  for (const auto& plugin : policy_.built_in) listings.push_back(examine_built_in(plugin));
  for (const auto& folder : policy_.search_path) {
    for (const auto& path : plugin_files(folder)) listings.push_back(examine(path));
  }
  return listings;
}

PluginListing PluginLoader::examine(const std::filesystem::path& path) const {
  PluginListing listing{.path = path, .info = {}, .problem = {}, .hint = {}};
  try {
    const auto file = PluginFile::open(path);
    if (!file.info().name.empty()) listing.info = file.info();
    vet(file, policy_.require_lock);
  } catch (const Error& e) {
    listing.set_problem(e);
  }
  return listing;
}

void PluginLoader::vet(const PluginFile& file, bool require_lock) const {
  if (require_lock) check_lock(file.info());
  file.check();
  if (built_in(file.info().name) != nullptr) fail_built_in(file.info());
}

const StaticPlugin* PluginLoader::built_in(const std::string& name) const {
  const auto found = std::ranges::find_if(policy_.built_in, [&](const StaticPlugin& plugin) {
    return plugin.stamp.plugin_name == name;
  });
  return found == policy_.built_in.end() ? nullptr : &*found;
}

PluginInfo PluginLoader::resolve(const PluginRequirement& requirement) const {
  return choose_plugin(list(), requirement, policy_.search_path);
}

const PluginInfo& PluginLoader::load(const PluginRequirement& requirement) {
  const std::lock_guard lock(mutex_);
  const auto loaded = loaded_.find(requirement.name);
  if (loaded != loaded_.end() && satisfies(loaded->second, requirement)) return loaded->second;
  return load_chosen(resolve(requirement), policy_.require_lock);
}

const PluginInfo& PluginLoader::load_unlocked(const std::filesystem::path& file) {
  const std::lock_guard lock(mutex_);
  const auto wanted = PluginFile::open(std::filesystem::absolute(file)).info();
  return load_chosen(wanted, /*require_lock=*/false);
}

const RegisteredMode& PluginLoader::load_mode(const std::string& mode) {
  const std::lock_guard lock(mutex_);
  if (const auto* registered = registry_.find(mode)) return *registered;
  const auto listings = list();
  auto known = registry_.names();
  for (const auto& listing : listings) {
    if (listing.info) {
      known.insert(known.end(), listing.info->modes.begin(), listing.info->modes.end());
    }
  }
  const std::set<std::string> distinct(known.begin(), known.end());
  if (!distinct.contains(mode)) throw_unknown_mode(mode, {distinct.begin(), distinct.end()});
  load_chosen(choose_provider(listings, {&PluginInfo::modes, mode}), policy_.require_lock);
  return registry_.get(mode);
}

void PluginLoader::load_provider(const ProvidedName& wanted) {
  const auto listings = list();
  if (!is_provided(listings, wanted)) return;
  load_chosen(choose_provider(listings, wanted), policy_.require_lock);
}

std::vector<std::string> PluginLoader::modes() const {
  auto all = registry_.names();
  for (const auto& listing : list()) {
    if (listing.is_usable()) {
      all.insert(all.end(), listing.info->modes.begin(), listing.info->modes.end());
    }
  }
  std::ranges::sort(all);
  const auto repeated = std::ranges::unique(all);
  all.erase(repeated.begin(), repeated.end());
  return all;
}

void PluginLoader::load_base(const std::string& architecture) {
  const std::lock_guard lock(mutex_);
  if (BaseModelRegistry::instance().knows(architecture)) return;
  load_provider({&PluginInfo::bases, architecture});
}

void PluginLoader::load_draft_model(const std::string& mode, const std::string& architecture) {
  const std::lock_guard lock(mutex_);
  if (DraftModelRegistry::instance().find(mode, architecture)) return;
  load_provider({&PluginInfo::draft_models, draft_model_name(mode, architecture)});
}

std::vector<PluginRef> PluginLoader::requirements(const std::string& mode,
                                                  const std::string& architecture) const {
  const std::lock_guard lock(mutex_);
  std::vector<PluginRef> plugins;
  for (const auto& [name, plugin] : loaded_) {
    const bool is_own = provides(plugin, {&PluginInfo::modes, mode});
    if (is_own) continue;
    if (provides(plugin, {&PluginInfo::bases, architecture}) ||
        provides(plugin, {&PluginInfo::draft_models, draft_model_name(mode, architecture)})) {
      plugins.push_back(plugin.reference());
    }
  }
  return plugins;
}

const PluginInfo& PluginLoader::load_chosen(const PluginInfo& wanted, bool require_lock) {
  const auto loaded = loaded_.find(wanted.name);
  if (loaded != loaded_.end()) {
    if (loaded->second.sha256 == wanted.sha256) return loaded->second;
    throw Error(ErrorCode::kPluginConflict,
                fmt::format("plugin {} cannot be loaded: this process has loaded {}",
                            plugin_title(wanted), plugin_title(loaded->second)),
                "plugins are never unloaded: use the two versions in separate processes");
  }
  check_torch_runtime();
  if (!wanted.is_built_in) return load_file(wanted, require_lock);
  publish(wanted, enter_plugin(wanted, built_in(wanted.name)->entry), registry_);
  return loaded_.emplace(wanted.name, wanted).first->second;
}

const PluginInfo& PluginLoader::load_file(const PluginInfo& wanted, bool require_lock) {
  auto file = PluginFile::open(wanted.path);
  if (file.info().sha256 != wanted.sha256) {
    throw Error(ErrorCode::kPluginHashMismatch,
                fmt::format("plugin {} changed while it was being loaded", plugin_title(wanted)),
                "try again when nothing writes to it any more");
  }
  vet(file, require_lock);
  publish(file.info(), enter_plugin(file), registry_);
  return loaded_.emplace(wanted.name, file.info()).first->second;
}

SpeculativeDecodingModeRegistry& mode_registry() {
  static auto& registry = *new SpeculativeDecodingModeRegistry;
  return registry;
}

PluginLoader& plugin_loader(const PluginPolicy* policy) {
  static auto& loader =
      *new PluginLoader(policy != nullptr ? *policy : PluginPolicy::standard(), mode_registry());
  return loader;
}

}  // namespace outrider
