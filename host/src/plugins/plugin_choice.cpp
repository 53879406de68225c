#include "plugins/plugin_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "outrider/text.h"
#include "outrider/version.h"
#include "plugins/plugin_files.h"
#include "plugins/plugin_title.h"

namespace outrider {
namespace {

/// Throws the problems of the unusable listings among which the wanted one would have been.
[[noreturn]] void fail_unusable(const std::vector<const PluginListing*>& listings) {
  std::vector<std::string> problems;
  for (const auto* listing : listings) problems.push_back(listing->problem);
  throw Error(listings.front()->problem_code, join(problems, "\n"), listings.front()->hint);
}

/// The highest version, of equal ones the first; `plugins` are in the order of the search path.
PluginInfo highest(const std::vector<PluginInfo>& plugins) {
  const auto& best = *std::max_element(
      plugins.begin(), plugins.end(),
      [](const PluginInfo& a, const PluginInfo& b) { return a.version < b.version; });
  for (const auto& other : plugins) {
    if (!are_rivals(best, other)) continue;
    throw Error(ErrorCode::kPluginAmbiguous,
                fmt::format("two different files are plugin {} {}: {} and {}", best.name,
                            best.version.to_string(), printable(best.path.string()),
                            printable(other.path.string())),
                "remove one of them: in one folder nothing says which is meant");
  }
  return best;
}

[[noreturn]] void fail_not_found(const std::vector<PluginListing>& listings,
                                 const PluginRequirement& requirement,
                                 const std::vector<std::filesystem::path>& search_path) {
  std::vector<std::string> installed, folders;
  for (const auto& listing : listings) {
    if (listing.is_usable()) installed.push_back(plugin_title(*listing.info));
  }
  for (const auto& folder : search_path) folders.push_back(printable(folder.string()));
  throw Error(
      ErrorCode::kPluginNotFound,
      fmt::format("no plugin '{}' in range {} is installed; {}", printable(requirement.name),
                  printable(requirement.range),
                  installed.empty() ? "no plugin is" : "installed are " + join(installed, ", ")),
      fmt::format("`outrider plugin add FILE` installs one, --plugin-dir names a folder; searched "
                  "were {}",
                  join(folders, ", ")));
}

}  // namespace

bool may_be(const PluginListing& listing, const std::string& name) {
  if (listing.info) return listing.info->name == name;
  const auto file = listing.path.filename().string();
  return file.ends_with(kPluginSuffix) &&
         (file.starts_with(name + "-") || file == name + kPluginSuffix);
}

bool is_another_file_of(const PluginInfo& a, const PluginInfo& b) {
  return a.name == b.name && a.version == b.version && a.sha256 != b.sha256;
}

bool are_rivals(const PluginInfo& a, const PluginInfo& b) {
  return is_another_file_of(a, b) && a.path.parent_path() == b.path.parent_path();
}

bool is_exact(const PluginInfo& plugin, const PluginRequirement& requirement) {
  return !requirement.sha256.empty() && plugin.sha256 == requirement.sha256;
}

bool satisfies(const PluginInfo& plugin, const PluginRequirement& requirement) {
  const auto range = VersionRange::parse(requirement.range);
  return is_exact(plugin, requirement) || range.contains(plugin.version);
}

PluginInfo choose_plugin(const std::vector<PluginListing>& listings,
                         const PluginRequirement& requirement,
                         const std::vector<std::filesystem::path>& search_path) {
  std::vector<PluginInfo> candidates;
  std::vector<const PluginListing*> unusable;
  for (const auto& listing : listings) {
    if (!may_be(listing, requirement.name)) continue;
    if (listing.info && !satisfies(*listing.info, requirement)) continue;
    if (!listing.is_usable()) {
      unusable.push_back(&listing);
    } else if (is_exact(*listing.info, requirement)) {
      return *listing.info;
    } else {
      candidates.push_back(*listing.info);
    }
  }
  if (!candidates.empty()) return highest(candidates);
  if (!unusable.empty()) fail_unusable(unusable);
  fail_not_found(listings, requirement, search_path);
}

bool provides(const PluginInfo& plugin, const ProvidedName& wanted) {
  return std::ranges::count(plugin.*wanted.list, wanted.name) > 0;
}

bool is_provided(const std::vector<PluginListing>& listings, const ProvidedName& wanted) {
  return std::ranges::any_of(listings, [&](const PluginListing& listing) {
    return listing.info && provides(*listing.info, wanted);
  });
}

PluginInfo choose_provider(const std::vector<PluginListing>& listings, const ProvidedName& wanted) {
  std::map<std::string, std::vector<PluginInfo>> providers;
  std::vector<const PluginListing*> unusable;
  for (const auto& listing : listings) {
    if (!listing.info || !provides(*listing.info, wanted)) continue;
    if (listing.is_usable()) {
      providers[listing.info->name].push_back(*listing.info);
    } else {
      unusable.push_back(&listing);
    }
  }
  if (providers.empty()) fail_unusable(unusable);
  if (providers.size() == 1) return highest(providers.begin()->second);
  std::vector<std::string> titles;
  for (const auto& [name, plugins] : providers) titles.push_back(plugin_title(highest(plugins)));
  throw Error(ErrorCode::kPluginAmbiguous,
              fmt::format("{} is provided by several plugins: {}", in_quotes(wanted.name),
                          join(titles, ", ")),
              "remove all but one of them, or take their folders out of the search path");
}

}  // namespace outrider
