#include "outrider/host/plugin_verification.h"

#include <fmt/format.h>

#include <utility>

#include "outrider/host/plugin_lock.h"
#include "outrider/text.h"
#include "plugins/plugin_choice.h"
#include "plugins/plugin_title.h"

namespace outrider {
namespace {

PluginListing missing_file(const std::filesystem::path& folder, const PluginLock::Entry& entry) {
  PluginListing listing{.path = folder / entry.file, .info = {}, .problem = {}, .hint = {}};
  listing.set_problem(
      Error(ErrorCode::kPluginNotFound,
            fmt::format("plugin {}: {} lists it as {} {}, but there is no such file",
                        printable(listing.path.string()), PluginLock::kFileName,
                        printable(entry.name), printable(entry.version)),
            fmt::format("`outrider plugin add FILE` brings it back, `outrider plugin remove {}` "
                        "forgets it",
                        printable(entry.name))));
  return listing;
}

void add_missing_files(const std::filesystem::path& folder, std::vector<PluginListing>& listings) {
  try {
    for (const auto& entry : PluginLock::read(folder).entries) {
      std::error_code error;
      const auto type = std::filesystem::symlink_status(folder / entry.file, error).type();
      if (type == std::filesystem::file_type::not_found) {
        listings.push_back(missing_file(folder, entry));
      }
    }
  } catch (const Error& e) {
    PluginListing lock{
        .path = folder / PluginLock::kFileName, .info = {}, .problem = {}, .hint = {}};
    lock.set_problem(e);
    listings.push_back(std::move(lock));
  }
}

/// Of usable files, so that what is wrong with one file comes first.
void mark_ambiguous(std::vector<PluginListing>& listings) {
  std::vector<PluginInfo> usable;
  for (const auto& listing : listings) {
    if (listing.is_usable()) usable.push_back(*listing.info);
  }
  for (auto& listing : listings) {
    if (!listing.is_usable()) continue;
    for (const auto& other : usable) {
      if (!are_rivals(*listing.info, other)) continue;
      listing.set_problem(
          Error(ErrorCode::kPluginAmbiguous,
                fmt::format("plugin {} has the name and version of another file, {}",
                            plugin_title(*listing.info), plugin_title(other)),
                "remove one of them: in one folder nothing says which is meant"));
      break;
    }
  }
}

}  // namespace

std::vector<PluginListing> verify_plugins(PluginPolicy policy) {
  policy.require_lock = true;
  const auto folders = policy.search_path;
  SpeculativeDecodingModeRegistry unused;
  auto listings = PluginLoader(std::move(policy), unused).list();
  for (const auto& folder : folders) add_missing_files(folder, listings);
  mark_ambiguous(listings);
  return listings;
}

}  // namespace outrider
