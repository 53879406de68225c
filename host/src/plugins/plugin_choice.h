#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/host/plugin_loader.h"

namespace outrider {

/// Whether a file is the named plugin, or is called so while what it says cannot be read.
OUTRIDER_API bool may_be(const PluginListing& listing, const std::string& name);

/// Whether two plugins have one name and version, but different bytes.
OUTRIDER_API bool is_another_file_of(const PluginInfo& a, const PluginInfo& b);

/// Whether two such files lie in one folder, so that the order of folders does not decide.
bool are_rivals(const PluginInfo& a, const PluginInfo& b);

/// Whether a plugin is the very file that is wanted, where one is.
OUTRIDER_API bool is_exact(const PluginInfo& plugin, const PluginRequirement& requirement);

/// Whether a plugin of the right name is the exact file or in the range.
/// Throws kInvalidArgument for a range that is none.
bool satisfies(const PluginInfo& plugin, const PluginRequirement& requirement);

/// The exact file if it is there and usable, else the highest usable version in range; of different
/// files of that version the one whose folder comes first in `listings`. Throws kPluginAmbiguous
/// where two lie in that folder; where only unusable files would do, what is wrong with them; else
/// kPluginNotFound. `search_path` is for the message.
PluginInfo choose_plugin(const std::vector<PluginListing>& listings,
                         const PluginRequirement& requirement,
                         const std::vector<std::filesystem::path>& search_path);

/// A name in one of the lists of a plugin's stamp.
struct ProvidedName {
  std::vector<std::string> PluginInfo::*list;
  std::string name;
};

bool provides(const PluginInfo& plugin, const ProvidedName& wanted);
bool is_provided(const std::vector<PluginListing>& listings, const ProvidedName& wanted);

/// The highest usable version of the one plugin that provides it, which some listing does, chosen
/// among different files as above. Throws
/// kPluginAmbiguous if several plugins do, and what is wrong with them if none is usable.
PluginInfo choose_provider(const std::vector<PluginListing>& listings, const ProvidedName& wanted);

}  // namespace outrider
